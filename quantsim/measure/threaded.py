"""Tallies of large arrays by all cores: one program, which takes some stages of an array, called by several threads.

JAX runs the calls of several threads at once, also on one device. The program is compiled for the whole array and takes
the numbers of the stages that a call is for, so nothing is copied. Sums, extremes and counts have the bits of one call.
"""

from functools import cache, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from quantsim._types import TensorScale, Weights
from quantsim.measure import tallies
from quantsim.measure.pairs import Given, Pairs, Quantized, some_stages
from quantsim.measure.tallies import SUMS, Exponents, Tally
from quantsim.numerics.fusion import STAGE
from quantsim.numerics.meshes import is_on_one_cpu
from quantsim.numerics.threads import ONE_CORE_A_CALL, by_threads, most_of_a_share, shares, worth_sharing
from quantsim.numerics.tiles import TILE
from quantsim.populations.structure import Structure
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.stages import Stages, stages_of
from quantsim.quantizer.structure import Numbers, parted, rebuild_quantizer
from quantsim.quantizer.tensor_scales import scale_by_threads

_EXTREMES, _COUNTS = ("max_abs", "max_signal"), ("nonzero", "zeroed", "clipped")
#: Sums, extremes and counts of a tally.
_Packed: TypeAlias = tuple[Float[Array, "6 _"], Float[Array, "2"], Int32[Array, "3"]]
#: Numbers of the first stage of a call and of the one after the last.
_Between: TypeAlias = tuple[Int32[Array, ""], Int32[Array, ""]]


def of_quantized(
    q: AbstractQuantizer, w: Weights, unit: Exponents | None = None, *, tensor: TensorScale | None = None, threads: int
) -> Tally | None:
    """``tallies.tally(w, q.roundtrip(w), unit=unit)`` to the bit, in NumPy arrays; None where one call is as good.

    ``tensor`` is the scale of the tensor that the weights are a part of; without, they are all of it.
    """
    stages = stages_of(q._span(w.shape), w.shape) if is_on_one_cpu(w) and worth_sharing(w.size, threads) else None
    if stages is None:
        return None
    structure, numbers = parted(q)
    tallies.require_known(jax.device_put(numbers))  # inside jit they are not, though the weights may be
    if q._has_tensor_scale() and tensor is None:
        tensor = scale_by_threads(q, [w], threads=threads)
    static = structure, most_of_a_share(stages.whole(w), stages.length, threads)
    return _by_threads(_some_of_quantized(), static, ((numbers, tensor), w, unit), (w, stages), threads=threads)


def of_given(w: Weights, w_hat: Weights, unit: Exponents | None = None, *, threads: int) -> Tally | None:
    """``tallies.tally(w, w_hat, unit=unit)`` to the bit, in NumPy arrays; None where one call is as good."""
    shared = all(is_on_one_cpu(x) for x in (w, w_hat)) and worth_sharing(w.size, threads)
    if not shared or w.sharding.device_set != w_hat.sharding.device_set:
        return None
    stages = Stages(STAGE)
    static = (most_of_a_share(stages.whole(w), stages.length, threads),)
    return _by_threads(_some_of_given(), static, (w, w_hat, unit), (w, stages), threads=threads)


@cache
def _some_of_quantized() -> Any:
    """Program that tallies some of the stages of an array, to be compiled for the whole of it and called for each."""

    def measured(
        structure: Structure,
        most: int,
        given: tuple[Numbers, TensorScale | None],
        w: Weights,
        unit: Exponents | None,
        between: _Between,
    ) -> tuple[_Packed, _Packed | None]:
        numbers, tensor = given
        q = rebuild_quantizer(structure, numbers)
        stages = stages_of(q._span(w.shape), w.shape)
        assert stages is not None
        return _packed_parts(Quantized(w, q, tensor, stages), unit, between, most)

    return jax.jit(measured, static_argnums=(0, 1), compiler_options=ONE_CORE_A_CALL)


@cache
def _some_of_given() -> Any:
    """The same for weights and what they became, which are both there."""

    def measured(
        most: int, w: Weights, w_hat: Weights, unit: Exponents | None, between: _Between
    ) -> tuple[_Packed, _Packed | None]:
        return _packed_parts(Given(w, w_hat), unit, between, most)

    return jax.jit(measured, static_argnums=0, compiler_options=ONE_CORE_A_CALL)


def _packed_parts(pairs: Pairs, unit: Exponents | None, between: _Between, most: int) -> tuple[_Packed, _Packed | None]:
    found, rest = some_stages(partial(tallies.tally, unit=unit), pairs, between=between, most=most)
    return _packed(found), None if rest is None else _packed(rest)


def _by_threads(
    program: Any, static: tuple[Any, ...], arguments: tuple[Any, ...], cut: tuple[Weights, Stages], *, threads: int
) -> Tally:
    """The tally of an array, of what the program gives for each share of its stages."""
    w, stages = cut
    whole = stages.whole(w)
    betweens = [(np.int32(a), np.int32(b)) for a, b in shares(whole, stages.length, threads)]
    compiled = program.lower(*static, *arguments, betweens[0]).compile()

    def part(between: tuple[Any, Any]) -> list[Any]:
        (sums, *others), rest = jax.tree.map(np.asarray, compiled(*arguments, between))
        kept = sums[:, : int(between[1] - between[0]) * stages.length // TILE], *others
        return [kept, rest] if rest is not None and between[1] == whole else [kept]

    found = by_threads(part, betweens, threads=threads)
    return _unpacked([packed for of_part in found for packed in of_part], arguments[-1])


def _packed(t: Tally) -> _Packed:
    """A tally in three arrays: to make many of Python takes longer than a stage."""
    sums, extremes, counts = ([getattr(t, name) for name in names] for names in (SUMS, _EXTREMES, _COUNTS))
    return jnp.stack(sums), jnp.stack(extremes), jnp.stack(counts)


def _unpacked(parts: list[Any], unit: Exponents | None) -> Tally:
    """The tally of consecutive parts that are packed, in NumPy arrays."""
    sums, extremes, counts = zip(*parts, strict=True)
    found = [*np.concatenate(sums, axis=1), *np.max(extremes, axis=0), *np.sum(counts, axis=0)]
    names = (*SUMS, *_EXTREMES, *_COUNTS)
    return jax.tree.map(np.asarray, Tally(**dict(zip(names, found, strict=True)), unit=unit))
