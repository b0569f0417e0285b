"""What every block format makes of what is out of the ordinary: copies, types, meshes, stacked arrays, no weights.

All formats are traced, which finds a wrong type or a refusal; where values matter, those that compile quickly run. The
searches take long to trace, so that each is traced once with all switches on, and once with none.
"""

import copy
import pickle
import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import quantsim as qs
from quantsim.quantizer import blockformats
from quantsim.quantizer.blockformats.coding import Coding
from quantsim.quantizer.blockformats.gguf import TYPES

SHAPE = (102, 512)  # the one of the other tests of block formats, whose programs serve here too
SHAPES = jax.ShapeDtypeStruct((2, 512), jnp.float32)
LATTICES = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}
SEARCHED = {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", *LATTICES}  # take long to trace
every = pytest.mark.parametrize("text", blockformats.SPECS)
QUICK = ["q8_0", "q4_1", "tq2_0", "mxfp4:gguf", "nvfp4:gguf", "mxfp4", "mxfp8_e5m2", "mxint8", "nvfp4", "nvfp4:single"]
quick = pytest.mark.parametrize("text", QUICK)


def weights(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(a, b) -> None:
    """Two pytrees of equal arrays."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- copies ---------------------------------------------------------------------------------------------------------


@every
def test_a_copy_of_a_format_is_the_format(text):
    q = qs.parse(text)
    for other in (pickle.loads(pickle.dumps(q)), copy.copy(q), copy.deepcopy(q)):
        assert other == q
        assert hash(other) == hash(q)


@every
def test_an_array_and_its_copy_are_of_one_structure(text):
    qw = jax.eval_shape(qs.parse(text).quantize, SHAPES)
    for other in (copy.deepcopy(qw), pickle.loads(pickle.dumps(qw))):
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, qw, other)))


# --- 64-bit types, strict promotion, explicit axes ------------------------------------------------------------------


def everything(text: str, w) -> list:
    """Whatever a format computes of weights, with each search traced as seldom as possible.

    Which weights clip is a question to the base class, which asks it of a search and of values that are here already.
    """
    q = qs.parse(text)
    found = [q.quantize(w).dequantize()]
    if text not in SEARCHED:
        found.append(q.clipped(w))
    if getattr(q, "takes_imatrix", False):
        found.append(q.roundtrip(w, imatrix=np.ones(w.shape[-1])))
    return found


@every
def test_every_format_is_traced_under_x64_and_strict_promotion_and_on_explicit_axes(text):
    """No array of float64 in it: then it holds the same float32 operations, and gives the same bits."""
    sharding = NamedSharding(jax.make_mesh((4,), ("d",)).abstract_mesh, PartitionSpec("d", None))
    w = jax.ShapeDtypeStruct((16, 1024), jnp.float32, sharding=sharding)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        program, results = jax.make_jaxpr(lambda w: everything(text, w), return_shape=True)(w)
    assert not re.findall(r"f64\[\d.*", str(program))
    assert all(result.sharding.spec == sharding.spec for result in results)


@quick
def test_values_under_x64_and_strict_promotion(text):
    q, w = qs.parse(text), weights()
    expected = q.quantize(w), q.quantize(w).dequantize()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        qw = q.quantize(w)
        same((qw, qw.dequantize()), expected)
        assert jax.eval_shape(q.roundtrip, w).dtype == np.float32


@quick
def test_float64_is_rounded_to_float32_first(text):
    """Llama.cpp and the MX specification start from float32; here just past a midpoint, which becomes a tie."""
    w = np.float64(weights())
    w[:, ::32] = np.nextafter(1.25 * np.abs(w).max(), np.inf)
    q = qs.parse(text)
    assert (w != np.float32(w)).any()
    same(q.quantize(w), q.quantize(w.astype(np.float32)))


# --- meshes, stacked arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [PartitionSpec("d", None), PartitionSpec(None, "d")])
@pytest.mark.parametrize("text", ["q8_0", "mxfp4", "nvfp4"])
def test_explicit_axes_of_a_mesh(text, spec):
    """The mesh that ``jax.make_mesh`` makes by default; results lie on the devices as the weights do."""
    q, w = qs.parse(text), weights()
    sharding = NamedSharding(jax.make_mesh((2,), ("d",), devices=jax.devices()[:2]), spec)
    on_mesh = jax.device_put(w, sharding)
    qw, expected = q.quantize(on_mesh), q.quantize(w)
    w_hat = qw.dequantize()
    same((qw, w_hat, q.roundtrip(on_mesh)), (expected, expected.dequantize(), expected.dequantize()))
    assert jax.typeof(qw.codes).sharding.spec == jax.typeof(w_hat).sharding.spec == spec


@every
def test_a_vmapped_array_is_the_array_of_each(text):
    q, w = qs.parse(text), jax.ShapeDtypeStruct((3, 2, 512), jnp.float32)
    stacked = jax.eval_shape(jax.vmap(q.quantize), w)
    assert stacked.nbytes == 3 * jax.eval_shape(q.quantize, SHAPES).nbytes
    assert stacked.shape == (3, 2, 512)
    if text not in SEARCHED:  # to which the base class gives the shape
        assert jax.eval_shape(lambda qw: qw.dequantize(), stacked).shape == (3, 2, 512)


@pytest.mark.parametrize("text", ["q8_0", "mxint8", "nvfp4", "nvfp4:single"])
def test_a_vmapped_array_decodes_to_the_weights_of_each(text):
    q, w = qs.parse(text), weights(shape=(3, *SHAPE)) * np.array([1, 100, 0.01], np.float32)[:, None, None]
    stacked = jax.vmap(q.quantize)(w)
    w_hat = np.asarray(stacked.dequantize())
    same(w_hat, jax.vmap(lambda qw: qw.dequantize())(stacked))
    for one, of_one in zip(w, w_hat, strict=True):
        same(of_one, q.quantize(one).dequantize())


def test_scales_of_tensors_that_do_not_fit_are_refused():
    qw = jax.vmap(qs.parse("nvfp4").quantize)(weights(shape=(3, 2, 512)))
    with pytest.raises(ValueError, match=r"tensor_scale of shape \(2,\): no batch of \(3,\) arrays"):
        jax.tree.map(lambda leaf: leaf[:2] if leaf.ndim == 1 else leaf, qw).dequantize()


# --- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [text for text in blockformats.SPECS if text not in SEARCHED])
def test_a_vector_is_a_matrix_of_one_row(text):
    """For the searches the base class sees to it, as for the others of it."""
    q = qs.parse(text)
    row, matrix = (jax.eval_shape(q.quantize, jax.ShapeDtypeStruct(s, jnp.float32)) for s in ((512,), (2, 512)))
    assert row.codes.shape == matrix.codes.shape[1:]
    assert (row.shape, 8 * row.nbytes) == ((512,), 512 * q.bits_per_weight((1, 512)))


@every
def test_no_weights(text):
    """Of any shape where formats trace quickly: no element and no rule of a scale sees it."""
    q = qs.parse(text)
    for shape in ((0,), (0, 512), (3, 0), (2, 0, 256)) if text in QUICK else ((2, 0, 256),):
        stored, w_hat, roundtrip, clipped = jax.eval_shape(
            lambda w: ((qw := q.quantize(w)), qw.dequantize(), q.roundtrip(w), q.clipped(w)),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
        assert w_hat.shape == roundtrip.shape == clipped.shape == shape
        assert (w_hat.dtype, clipped.dtype) == (np.float32, bool)
        assert q.bits_per_weight(shape) == 8 * stored.nbytes


@dataclass(frozen=True)
class NoSearch(Coding):
    """A coding that cannot be searched."""

    search: Any = None
    values: Any = None
    to_bytes: Any = None
    from_bytes: Any = None


def test_no_weights_need_no_search():
    q, nothing = replace(qs.parse("q4_k"), coding=NoSearch()), np.zeros((0, 512), np.float32)
    assert q.quantize(nothing).codes.shape == (0, 288)
    assert q.quantize(nothing, imatrix=np.ones(512)).codes.dtype == np.uint8
    assert (q.roundtrip(nothing).shape, q.clipped(nothing).dtype) == ((0, 512), bool)
    with pytest.raises(TypeError):
        q.quantize(np.ones((1, 512)))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.asarray, jnp.asarray])
def test_gguf_bytes_of_any_kind(kind):
    data = np.arange(256 * 34, dtype=np.int64).astype(np.uint8).reshape(16, -1)
    flat = data.tobytes() if kind in (bytes, bytearray, memoryview) else data.reshape(-1)
    same(qs.gguf.unpack(kind(flat), "Q8_0"), qs.gguf.unpack(data.reshape(-1), "q8_0"))


@pytest.mark.parametrize("name", TYPES)
def test_no_message_names_a_parameter_that_pack_has_not(name):
    w = weights()
    w[3, 5] = np.nan
    with pytest.raises(ValueError, match=r"nan at index \(3, 5\); mend the input$"):
        qs.gguf.pack(w, name)
    parameter = "nonfinite=" if TYPES[name].has_nan else "mend the input$"
    with pytest.raises(ValueError, match=parameter):
        TYPES[name].quantize(w)
