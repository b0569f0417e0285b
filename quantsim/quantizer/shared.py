"""Large arrays there and back by all cores: one program, which takes some stages, called by several threads.

Programs are compiled ahead: a call of one with known arrays is then no part of a program that is being traced.
"""

from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int32

from quantsim._types import TensorScale, Weights
from quantsim.numerics.fusion import apart
from quantsim.numerics.memory import empty
from quantsim.numerics.meshes import is_on_one_cpu
from quantsim.numerics.threads import ONE_CORE_A_CALL, by_threads, cores, worth_sharing
from quantsim.populations.structure import Structure
from quantsim.quantizer import programs
from quantsim.quantizer.stages import Stages, stages_of
from quantsim.quantizer.structure import Numbers, parted, rebuild_quantizer
from quantsim.quantizer.tensor_scales import scale_by_threads

_MOST = 8  # stages of a call: results that stay in the cache until they are copied
#: Numbers of the first stage of a call and of the one after the last.
_Between: TypeAlias = tuple[Int32[Array, ""], Int32[Array, ""]]
#: Numbers of a quantizer, and the scale of the tensor.
_Given: TypeAlias = tuple[Numbers, TensorScale | None]


def shared_roundtrip(q: Any, w: Weights) -> Weights | None:
    """What ``q`` makes of ``w``, to the bit, by all cores; None where one call is as good, or ``w`` is not known."""
    stages = _stages_to_share(q, w)
    if stages is None:
        return None
    return _shared(q, w, stages, jax.ShapeDtypeStruct(w.shape, jnp.float32), _tensor_scale(q, w))


def shared_quantize(q: Any, w: Weights) -> Any:
    """The quantized array of ``w``, to the bit, by all cores; None where one call is as good, or ``w`` is not known."""
    stages = _stages_to_share(q, w)
    if stages is None:
        return None
    tensor = _tensor_scale(q, w)
    like = programs.quantized.eval_shape(*parted(q), w, None, q._code_dtype())
    found = _shared(q, w, stages, replace(like, tensor_scale=None), tensor)
    return found if tensor is None else replace(found, tensor_scale=_placed(tensor, w))


def _stages_to_share(q: Any, w: Weights) -> Stages | None:
    if not is_on_one_cpu(w) or not worth_sharing(w.size, cores()):
        return None
    is_known = isinstance(parted(q)[1], np.ndarray)  # numbers that may be traced
    return stages_of(q._span(w.shape), w.shape) if is_known else None


def _tensor_scale(q: Any, w: Weights) -> np.ndarray | None:
    return scale_by_threads(q, [w], threads=cores()) if q._has_tensor_scale() else None


def _shared(q: Any, w: Weights, stages: Stages, like: Any, tensor: np.ndarray | None) -> Any:
    """Weights, or an array of codes, of the shapes and types that ``like`` has."""
    whole, (structure, numbers) = stages.whole(w), parted(q)
    shapes, tree = jax.tree.flatten(like)
    outs, given, codes = [_memory(s) for s in shapes], (numbers, tensor), _type_of_codes(like)
    betweens = [(np.int32(i), np.int32(min(i + _MOST, whole))) for i in range(0, whole, _MOST)]
    some = _some_stages().lower(structure, codes, given, w, betweens[0]).compile()

    def part(between: tuple[Any, Any]) -> None:
        first, end = (int(i) for i in between)
        for out, made in zip(outs, jax.tree.leaves(some(given, w, between)), strict=True):
            each = made.shape[1]
            out[first * each : end * each] = np.asarray(made).reshape(-1)[: (end - first) * each]

    by_threads(part, betweens, threads=cores())
    if stages.has_rest(w):
        rest = _rest().lower(structure, codes, given, w).compile()
        for out, made in zip(outs, jax.tree.leaves(rest(given, w)), strict=True):
            out[out.size - made.size :] = np.asarray(made).reshape(-1)
    return tree.unflatten([_placed(out.reshape(s.shape), w) for out, s in zip(outs, shapes, strict=True)])


def _type_of_codes(like: Any) -> Any:
    """None where weights are asked for."""
    return None if isinstance(like, jax.ShapeDtypeStruct) else like.codes.dtype


def _memory(like: jax.ShapeDtypeStruct) -> np.ndarray:
    """Room for a flat array."""
    nbytes = like.size * like.dtype.itemsize
    return empty(-(-nbytes // 4)).view(np.uint8)[:nbytes].view(like.dtype)


def _placed(found: np.ndarray, w: Weights) -> jax.Array:
    """An array in the memory that it lies in, on the device of ``w``."""
    place = w.sharding if w.committed else None
    if isinstance(place, NamedSharding) and found.shape != w.shape:  # axes that this array may not have
        place = NamedSharding(place.mesh, PartitionSpec())
    return jax.device_put(found, place, may_alias=True)


# --- programs -------------------------------------------------------------------------------------------------------


@cache
def _some_stages() -> Any:
    """Program of the stages between two numbers; what follows them means nothing."""

    def made(structure: Structure, codes: Any, given: _Given, w: Weights, between: _Between) -> Any:
        (q, stages), (first, end) = _cut(structure, given, w), between

        def of_stage(i: Array | int) -> Any:
            return _made(q, stages.at(w, i), given[1], codes)

        def add(i: Array, found: Any) -> Any:
            def put(all_: Array, of_i: Array) -> Array:
                return lax.dynamic_update_index_in_dim(all_, of_i.reshape(-1), i - first, 0)

            return jax.tree.map(put, found, apart(lambda: of_stage(i), i))

        shapes = jax.eval_shape(lambda: of_stage(0))
        return lax.fori_loop(first, end, add, jax.tree.map(lambda s: jnp.zeros((_MOST, s.size), s.dtype), shapes))

    return jax.jit(made, static_argnums=(0, 1), compiler_options=ONE_CORE_A_CALL)


@cache
def _rest() -> Any:
    """Program of what is left after the whole stages."""

    def made(structure: Structure, codes: Any, given: _Given, w: Weights) -> Any:
        q, stages = _cut(structure, given, w)
        return _made(q, stages.rest(w), given[1], codes)

    return jax.jit(made, static_argnums=(0, 1), compiler_options=ONE_CORE_A_CALL)


def _cut(structure: Structure, given: _Given, w: Weights) -> tuple[Any, Stages]:
    q = rebuild_quantizer(structure, given[0])
    stages = stages_of(q._span(w.shape), w.shape)
    assert stages is not None
    return q, stages


def _made(q: Any, rows: Weights, tensor: TensorScale | None, codes: Any) -> Any:
    """Weights, or what is stored of each row, with codes of that type."""
    if codes is None:
        return q._approximate_rows(rows, tensor)
    found = q._encode_rows(rows, tensor)
    return found.codes.astype(codes), found.scale, found.zero_point  # in the order of the leaves
