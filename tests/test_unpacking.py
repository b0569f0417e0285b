"""Unpacking of every GGUF type: against the ``gguf`` package to the bit, on every path, and how its memory is used.

Of the package's types three cannot be dequantized by it: Q8_1, Q8_K and Q1_0 are held against their definition.
"""

import contextlib
import gc
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import quantsim as qs
from quantsim import checkpoints
from quantsim.numerics import memory
from quantsim.quantizer.blockformats import unpacking
from quantsim.quantizer.blockformats.gguf import LAYOUTS, TYPES, layout
from quantsim.quantizer.blockformats.unpacking import grids, host
from quantsim.quantizer.face import QuantizedArray
from tests import oracles
from tests.oracle_gguf import dequantize, dequantize_by_definition
from tests.oracle_gguf import expected as packed
from tests.test_traces import counting

#: Types that the package knows by name only.
BY_DEFINITION = {"Q8_1", "Q8_K", "Q1_0"}
#: First bytes of the float16 scales and minimums of a block. IQ1_M spreads its scale, MXFP4 and NVFP4 have bytes, Q8_K
#: has a float32.
SCALES = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "Q1_0", "IQ4_NL", "IQ4_XS", "IQ1_S"), (0,)),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K", "Q8_1"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)},
    **{"IQ1_M": (), "MXFP4": (), "NVFP4": (), "Q8_K": ()},
}
by_type = pytest.mark.parametrize("name", LAYOUTS)


def blocks(name: str, number: int, seed: int = 0) -> np.ndarray:
    """Random bytes (number, bytes of a block)."""
    return np.random.default_rng(seed).integers(0, 256, (number, layout(name)[1]), dtype=np.uint8)


def expected(data: np.ndarray, name: str) -> np.ndarray:
    if name not in BY_DEFINITION:
        return dequantize(data, name)
    weights = dequantize_by_definition(data, name)
    return np.where(np.abs(weights) < np.finfo(np.float32).tiny, np.copysign(0, weights), weights)


def without_subnormal_scales(data: np.ndarray, name: str) -> np.ndarray:
    """Q8_K with float32 scales that are normal, whose products arithmetic keeps as they are."""
    if name == "Q8_K":
        data[:, 3] = np.where(data[:, 3] & 0x7F == 0, 1, data[:, 3])
    return data


# --- what is known --------------------------------------------------------------------------------------------------


def test_every_type_of_blocks_that_the_package_has_is_known():
    theirs = {kind.name: sizes for kind, sizes in GGML_QUANT_SIZES.items() if sizes[0] > 1}
    ours = {name: layout(name) for name in LAYOUTS}
    assert ours | {"Q8_1": (32, 40)} == theirs  # the package counts Q8_1's two float16 scales as float32
    assert {n for n in LAYOUTS if GGMLQuantizationType[n] not in quants._type_traits} == BY_DEFINITION
    assert {name: (q.size, q.nbytes) for name, q in TYPES.items()}.items() <= ours.items()
    assert SCALES.keys() == LAYOUTS.keys()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(n.lower(), n) for n in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")] + [("iq1", "IQ1_S"), ("iq1", "IQ1_M")],
)
def test_grids_are_those_of_the_package(ours, theirs):
    kind = quants._type_traits[GGMLQuantizationType[theirs]]
    kind.init_grid()
    np.testing.assert_array_equal(grids.grid(ours), kind.grid.reshape(kind.grid_shape), strict=True)


def test_what_can_only_be_unpacked_says_so():
    for name in LAYOUTS.keys() - TYPES.keys():
        with pytest.raises(ValueError, match=f"{name} can only be unpacked; types that can be packed: Q4_0, "):
            qs.gguf.pack(np.zeros((1, 256)), name.lower())
    with pytest.raises(ValueError, match="unknown GGUF type 'IQ2_XXL'; did you mean IQ2_X"):
        layout("IQ2_XXL")


# --- values ---------------------------------------------------------------------------------------------------------


@by_type
def test_random_bytes_are_those_of_the_package(name):
    data = without_subnormal_scales(blocks(name, 2**12), name)
    oracles.same_bits(qs.gguf.unpack(data, name), expected(data, name))


@by_type
def test_every_pattern_of_a_scale_is_that_of_the_package(name):
    """Each of the 65,536 float16 numbers; for types without one each byte, or each sign and exponent of float32."""
    data = without_subnormal_scales(blocks(name, 2**16, seed=1), name)
    for place in SCALES[name]:
        data[:, place : place + 2] = np.roll(np.arange(2**16, dtype="<u2"), 7 * place).view(np.uint8).reshape(-1, 2)
    assert {*data[:, 0]} == set(range(256))
    few = data[:: max(layout(name)[0] // 32, 1)] if len(SCALES[name]) != 1 else data
    oracles.same_bits(qs.gguf.unpack(few, name), expected(few, name))


@pytest.mark.slow
@by_type
def test_a_hundred_thousand_blocks_are_those_of_the_package(name):
    data = without_subnormal_scales(blocks(name, 2**17, seed=2), name)
    for place in SCALES[name]:
        data[:, place : place + 2] = np.resize(np.arange(2**16, dtype="<u2"), 2**17).view(np.uint8).reshape(-1, 2)
    oracles.same_bits(qs.gguf.unpack(data, name), expected(data, name))


def test_a_subnormal_float32_scale_counts_as_zero():
    """As everywhere here; only Q8_K has one. MXFP4, 2^-128 times a level, has subnormal weights, and keeps them."""
    data = blocks("Q8_K", 4)
    data[:, :4] = np.array([1e-40, -1e-40, 0.0, 2.0], "<f4").view(np.uint8).reshape(4, 4)
    found = np.asarray(qs.gguf.unpack(data, "Q8_K"))
    assert not found[:3].any()
    np.testing.assert_array_equal(found[3], 2.0 * data[3, 4:260].view(np.int8))


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_those_of_the_format(name):
    """What ``QuantizedArray.dequantize`` gives of the same bytes, where the scales are finite.

    Where they are not it may have NaN in the place of an infinity, and a zero of the other sign.
    """
    data = packed(name)
    of_format = QuantizedArray(jnp.asarray(data), None, None, TYPES[name]).dequantize()
    oracles.same_bits(qs.gguf.unpack(data, name), of_format)


# --- paths ----------------------------------------------------------------------------------------------------------


@by_type
def test_every_path_gives_the_same_bits(name):
    data = blocks(name, 32, seed=4).reshape(8, -1)

    def unpack(x):
        return qs.gguf.unpack(x, name)

    weights = unpack(data)
    assert weights.shape == (8, 4 * layout(name)[0])
    mesh = jax.make_mesh((4,), ("rows",))
    sharded = jax.device_put(data, NamedSharding(mesh, P("rows")))
    found = unpack(sharded)
    assert found.sharding.is_equivalent_to(sharded.sharding, 2)
    in_a_trace = jax.jit(lambda: unpack(data))()  # of known bytes
    for other in (
        found,
        in_a_trace,
        jax.jit(unpack)(data),
        jax.vmap(unpack)(jnp.asarray(data)),
        jax.lax.map(unpack, data),
    ):
        oracles.same_bits(other, weights)


def test_results_lie_where_the_bytes_do():
    data, last = blocks("Q4_K", 8), jax.devices()[-1]
    weights = qs.gguf.unpack(data, "Q4_K")
    there = qs.gguf.unpack(jax.device_put(data, last), "Q4_K")
    with jax.default_device(last):
        by_default = qs.gguf.unpack(data, "Q4_K")
    with jax.set_mesh(jax.make_mesh((4,), ("rows",))):
        on_mesh = qs.gguf.unpack(data, "Q4_K")
    with jax.disable_jit():
        step_by_step = qs.gguf.unpack(data, "Q4_K")
    assert there.devices() == by_default.devices() == {last}
    assert len(on_mesh.devices()) == 4
    for other in (there, by_default, on_mesh, step_by_step):
        oracles.same_bits(other, weights)


def test_bytes_are_read_wherever_they_lie(tmp_path):
    data = blocks("Q5_K", 48)
    weights = qs.gguf.unpack(data, "Q5_K")
    data.tofile(tmp_path / "bytes")
    mapped = np.memmap(tmp_path / "bytes", np.uint8, "r", shape=data.shape)
    unaligned = np.frombuffer(b"x" + data.tobytes(), np.uint8)[1:].reshape(data.shape)
    for other in (mapped, unaligned, np.asfortranarray(data), np.repeat(data, 2, axis=0)[::2]):
        oracles.same_bits(qs.gguf.unpack(other, "Q5_K"), weights)
    oracles.same_bits(qs.gguf.unpack(data.tobytes(), "Q5_K"), np.asarray(weights).reshape(-1))


# --- chunks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K"])
def test_chunks_change_nothing(name):
    size = host.CHUNK // layout(name)[0]
    data = blocks(name, 3 * size + 5, seed=5)
    weights = expected(data, name)
    for number in (1, size - 1, size, size + 1, 3 * size, 3 * size + 5):
        oracles.same_bits(qs.gguf.unpack(data[:number], name), weights[:number])


def test_a_type_is_compiled_once_for_all_shapes():
    host._program.cache_clear()
    qs.gguf.unpack(blocks("IQ3_S", 1), "Q3_K")  # IQ3_S and Q3_K have blocks of as many bytes
    with counting() as counter:
        for rows, columns in [(1, 1), (2, 3), (7, 5), (64, 16), (1, 5000), (300, 20)]:
            data = blocks("Q3_K", rows * columns).reshape(rows, -1)
            assert qs.gguf.unpack(data, "Q3_K").shape == (rows, 256 * columns)
    assert counter["compiles"] == 0
    with counting() as counter:
        qs.gguf.unpack(blocks("IQ3_S", 1), "IQ3_S")
    assert counter["compiles"] > 0


def test_threads_do_not_meet():
    data = blocks("Q6_K", 3 * 2**12 + 1, seed=6)
    parts = [data[i:] for i in range(12)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda part: qs.gguf.unpack(part, "Q6_K"), parts))
    weights = dequantize(data, "Q6_K")
    for i, part in enumerate(found):
        oracles.same_bits(part, weights[i:])


# --- memory ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing_kept():
    gc.collect()  # JAX lets go of arrays of NumPy at its next call, or here
    memory._kept.clear()
    yield
    memory._kept.clear()


def test_memory_is_used_again_when_nothing_refers_to_it():
    with nothing_kept():
        data = blocks("Q8_0", 2**10)
        first = qs.gguf.unpack(data, "Q8_0")
        place = first.unsafe_buffer_pointer()
        second = qs.gguf.unpack(data ^ 1, "Q8_0")
        assert second.unsafe_buffer_pointer() != place
        view = np.asarray(first)[3:, 5:]
        del first
        third = qs.gguf.unpack(data ^ 2, "Q8_0")
        assert third.unsafe_buffer_pointer() != place
        oracles.same_bits(view, dequantize(data, "Q8_0")[3:, 5:])
        oracles.same_bits(second, dequantize(data ^ 1, "Q8_0"))
        del view
        gc.collect()
        assert 4 * 2**15 + 64 in [raw.nbytes for raw in memory._kept]
        assert qs.gguf.unpack(data, "Q8_0").unsafe_buffer_pointer() == place


def test_memory_is_aligned_and_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "KEPT", 2**23)
    with nothing_kept():
        for weights in (5, 2**16, 2**20, 2**21, 2**20):
            part = memory.empty(weights)
            assert part.shape == (weights,)
            assert part.ctypes.data % (2**21 if weights > 2**19 else 64) == 0
            view = part.reshape(-1, 1)
            held = len(memory._kept)
            del part
            assert len(memory._kept) == held
            del view
            assert sum(raw.nbytes for raw in memory._kept) <= 2**23
        assert memory._kept


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_of_every_type_are_read(tmp_path):
    path, data = tmp_path / "w.gguf", {}
    writer = GGUFWriter(path, "gemma3")
    for name in LAYOUTS.keys() - {"Q8_1"}:  # whose size the package has wrong
        data[name] = blocks(name, 3, seed=7)
        writer.add_tensor(name, data[name], raw_dtype=GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dict(checkpoints.read(path))
    assert found.keys() == data.keys()
    for name, weights in found.items():
        oracles.same_bits(weights, unpacking.unpacked(LAYOUTS[name], data[name]))
        assert weights.shape == (3, layout(name)[0])
