"""The tests can fail: for each mutation of the source a named quick check must.

A mutation replaces one piece of the source of one module. A fresh copy of the package and of the tests is imported with
it, side by side with the real one, and the check, a test or a law called with its arguments, has to raise.
"""

import importlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(importlib.import_module("quantsim").__file__).parents[1]


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``module``; ``check(*args)`` of ``where`` then raises."""

    name: str
    module: str
    old: str
    new: str
    check: tuple


def _check(where: str):
    return lambda name, *args: (f"test_{where}", name, *args)


contract, rounding, calibration, quantizer = map(_check, ("contract", "rounding", "calibration", "quantizer"))
nearest = partial(rounding, "test_nearest_is_exact")
CHANNEL = quantizer("test_symmetric_integers_equal_numpy", "int8:channel", (61,), "channel", 1)
BLOCK = quantizer("test_symmetric_integers_equal_numpy", "int4:block32", (61, 3), "block", 32)
MINMAX = quantizer("test_asymmetric_integers_equal_numpy", "int8:channel:minmax", 8)
PERCENTILE = calibration("test_percentile_is_that_of_numpy", 99.9, 1000)
SEARCH = calibration("test_mse_search_equals_brute_force", "int4")
STORED = calibration("test_the_stored_scale_is_the_rounded_one_and_makes_the_codes", "int8:block32", "f16", "float16")
SIGNED = calibration("test_signed_bounds_put_the_extreme_on_the_lowest_code")
FNUZ = nearest("e4m3fnuz")
ODD = _check("narrowing")("test_odd_is_the_neighbour_whose_last_bit_is_one")
CLIPPED = "int4:block32:p90"
gguf, block = map(_check, ("gguf", "block_contract"))
stored = partial(gguf, "test_bytes_are_those_of_the_reference")
SCALED = "spread(d * levels.astype(jnp.float32), SIZE)"
F16 = "snap(jnp.clip(x, -65504.0, 65504.0), _F16)"
ORDER, RUNS = "reshape(len(codes), -1, planes, run)", "reshape(len(codes), -1, run, planes).swapaxes(2, 3)"
UNPACK = "test_unpack_and_dequantize_are_those_of_the_package_to_the_bit"
UNSIGNED = "jnp.full(blocks.shape, code, jnp.uint8)"
MX = "test_mx_codes_are_the_specification_to_the_bit"
UNROUNDED = "calibrate(blocks, q.format, rule, counts) +"
_stored = _check("stored_scales")
TWO = _stored("test_two_levels", "e2m1", "e4m3")
POWERS = _stored("test_powers_of_two_by_every_rule", "e2m1", "floor")
CHOSEN = _stored("test_search_is_the_best_of_the_neighbouring_codes", "e2m1", "ue4m3")
NIBBLES = "out | (runs[:, :, i] << (bits * i))", "(out << bits) | runs[:, :, i]"

#: module: name of the mutation, what is replaced, by what, and the check that notices
TABLE = {
    "rounding": [
        ("ties away", "TO_NEAREST_EVEN", "AWAY_FROM_ZERO", nearest("int4")),
        ("ties away in e2m1", "TO_NEAREST_EVEN", "AWAY_FROM_ZERO", nearest("e2m1")),
        ("ties away in bf16", "half - 1 + ((magnitude >> drop) & 1)", "half", nearest("bf16")),
        ("ties up in codebooks", "x > threshold, jnp", "x >= threshold, jnp", nearest("skew")),
        ("ties up in codes of codebooks", "x > threshold, k", "x >= threshold, k", nearest("skew")),
        ("missing clip of floats", "x = ieee.clip(x, g.low, g.high)", "x = 1.0 * x", nearest("e4m3")),
        ("missing clip of integers", "*grid(fmt)[2:])", "-1e9, 1e9)", contract("law_within_half_a_step", CLIPPED)),
        (
            "no gradual underflow",
            "jnp.maximum(ieee.exponent_of(x), g.min_exponent)",
            "ieee.exponent_of(x)",
            nearest("e4m3"),
        ),
        (
            "minus zero",
            "rounded == 0, 0.0, rounded)  # an",
            "rounded == 0, -0.0, rounded)  # an",
            contract("law_shape_and_type", "int8:tensor"),
        ),
        (
            "biased draw",
            "uniform(key, x.shape, x.dtype) < x - below",
            "uniform(key, x.shape, x.dtype) < 0.5",
            rounding("test_stochastic_rounding_is_unbiased", "int4"),
        ),
        ("infinities of e5m2 cut off", 'infinite & _is(fmt, "ieee")', "infinite & False", nearest("e5m2")),
        (
            "a NaN of fnuz that is -0",
            "rounded == 0, 0.0, rounded)  # -0",
            "rounded == 0, rounded, rounded)  # -0",
            FNUZ,
        ),
    ],
    "formats.table": [
        ("e4m3 with infinities", '4, 3, "fn"', '4, 3, "ieee"', rounding("test_codes_are_those_of_ml_dtypes", "e4m3")),
        (
            "a digit of nf4",
            "0.33791524171829224",
            "0.33781524171829224",
            _check("formats")("test_nf4_is_the_normal_float"),
        ),
    ],
    "formats.facts": [
        ("scale rounded up", '"floor": 0', '"floor": 0x7FFFFF', _check("microscaling")(MX, "mxfp4")),
        ("scale for 128", '"narrow": 1.0', '"narrow": 0.0', CHANNEL),
        (
            "bias of fnuz",
            '(fmt.specials != "fnuz")',
            "1",
            _check("formats")("test_levels_are_what_the_type_decodes", "e4m3fnuz"),
        ),
    ],
    "numerics.narrowing": [
        ("rounded twice", "inexact & (bits % 2 == 0)", "inexact & (bits % 2 == 2)", ODD),
        ("moved to the wrong side", "(excess < 0) == (bits >= 0)", "(excess > 0) == (bits >= 0)", ODD),
    ],
    "numerics.ieee": [
        ("reciprocal", "return lax.div(x, divisor) if", "return x * (1 / divisor) if", CHANNEL),
        ("division left to the compiler", "x, divisor = x - (x - x), divisor + (x - x)", "", CHANNEL),
        ("fused product", "product + (x - x)", "product", contract("_check_way", "int8:channel:minmax", "jit")),
    ],
    "measure.tallies": [
        (
            "fused error",
            "ieee.unfused(w_hat, w) - w",
            "w_hat - w",
            contract("_check_way", "int8:channel:minmax", "jit"),
        ),
    ],
    "granularity": [
        ("axis swapped", "return g.axis % len(shape)", "return (-1 - g.axis) % len(shape)", CHANNEL),
        ("blocks along the outputs", "return g.axis % len(shape)", "return (-1 - g.axis) % len(shape)", BLOCK),
        ("padding in front", "((0, 0), (0, tail))", "((0, 0), (tail, 0))", BLOCK),
        ("padding not removed", "[:, :length]", "[:, -length:]", BLOCK),
        ("padding counted", "if not length % size:", "if size:", calibration("test_percentile_of_a_ragged_tail", 90.0)),
    ],
    "calibration": [
        ("from the bottom", "rank = (1 - p / 100) * (n - 1)", "rank = p / 100 * (n - 1)", PERCENTILE),
        ("no interpolation", "np.float32(rank - upper)", "np.float32(0 * rank)", PERCENTILE),
        ("search that finds nothing", "better = loss < best[0]", "better = loss > best[0]", SEARCH),
        ("coarse search", "_STEPS_PER_OCTAVE, _OCTAVES = 16, 8", "_STEPS_PER_OCTAVE, _OCTAVES = 2, 8", SEARCH),
        (
            "padding in the rms",
            "jnp.asarray(counts, jnp.float32)",
            "jnp.float32(blocks.shape[-1])",
            calibration("test_the_padding_of_a_tail_does_not_matter", "int4:block32:rms"),
        ),
        (
            "range without zero",
            "low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)",
            "low, high = low, jnp.maximum(high, 0.0)",
            MINMAX,
        ),
        ("zero point cut off", "zero = round_integer(", "zero = jnp.floor(", MINMAX),
        (
            "sums in any order",
            "total = ieee.ordered_sum(ieee.square(blocks / unit))",
            "total = (blocks / unit).sum(axis=-1, keepdims=True)",
            calibration("test_rms", 100, 1.0),
        ),
    ],
    "quantizer.scaled": [
        (
            "scales not charged",
            "self.scale_format.bits * scales // 8",
            "0 * scales",
            contract("law_bits_are_bytes", "int8:channel"),
        ),
    ],
    "quantizer.scaled_blocks": [
        ("scale format ignored", "snap(calibrate(blocks, q.format, rule, counts), scale_format) +", UNROUNDED, STORED),
        (
            "contained poison",
            "counts), scale_format) + (top - top)",
            "counts), scale_format) + 0 * top.size",
            quantizer("test_propagation_poisons_the_block_and_no_other", "int4:block32:p50", float("inf")),
        ),
    ],
    "quantizer.programs": [
        (
            "gradient where it clips",
            "jnp.where(clipped(structure, numbers, w), 0.0, tangents[1])",
            "tangents[1]",
            contract("law_gradient", CLIPPED),
        ),
        (
            "a batch decoded as one array",
            "one = jax.vmap(one)",
            "pass",
            _check("batches")("test_a_batch_is_decoded_and_counted_as_its_arrays_are", "int4:block32@0"),
        ),
    ],
    "quantizer.structure": [
        ("specials left out", "float(SPECIALS.index(fmt.specials))", "0.0", nearest("e5m2")),
        ("reach left out", "facts.high, reach(fmt))", "facts.high, facts.high)", SIGNED),
    ],
    "quantizer.face": [
        (
            "half bounds clip late",
            "low, high = first - (second - first) / 2, last + (last - before) / 2",
            "low, high = first - (second - first), last + (last - before)",
            quantizer("test_straight_through_gradient", "int4:tensor:p80"),
        ),
    ],
    "quantizer.spec": [
        (
            "axis not spelled",
            "(g.axis != 0)",
            "(g.axis > 1)",
            _check("spec")("test_meaning_and_spelling", "int8:channel@1"),
        ),
        (
            "default spelled",
            '(scale, "f32")',
            '(scale, "f16")',
            _check("spec")("test_meaning_and_spelling", "int8:tensor"),
        ),
    ],
}
TABLE |= {
    "quantizer.blockformats.base": [
        ("codes without sign", "jnp.full_like(codes, code)", UNSIGNED, block("law_gradient", "q8_0")),
    ],
    "quantizer.blockformats.blocks": [
        ("extreme without its sign", "jnp.where(first % 2 == 1, -top, top)", "top", stored("Q4_0")),
    ],
    "quantizer.blockformats.chunks": [
        (
            "last chunk too late",
            "jnp.minimum(i * chunk, total - chunk)",
            "jnp.asarray(i * chunk)",
            gguf("test_over_chunks_is_the_function_on_all_rows", 20),
        ),
    ],
    "quantizer.blockformats.packing": [
        ("swapped nibbles", *NIBBLES, stored("Q4_0")),
        ("neighbours in a byte", ORDER, RUNS, stored("TQ2_0")),
        ("scale not stored as f16", F16, "jnp.clip(x, -65504.0, 65504.0)", block("law_roundtrip", "q4_0")),
        (
            "infinite scale",
            F16,
            "x.astype(jnp.float16).astype(jnp.float32)",
            gguf("test_huge_weights_saturate_and_zeros_are_zeros", "Q8_0"),
        ),
    ],
    "quantizer.blockformats.legacy": [("ties of q4_0", "(self.half + 0.5)", "(self.half + 0.0)", stored("Q4_0"))],
    "quantizer.blockformats.kquants_signed": [
        ("no second level", SCALED, SCALED.replace("d *", "d + 0 *"), gguf(UNPACK, "Q6_K")),
    ],
    "quantizer.blockformats.nonlinear": [("order of products", ", table=True)", ")", stored("IQ4_NL"))],
    "quantizer.blockformats.ternary": [
        ("ternary ties", '"away"', '"even"', gguf("test_bytes_are_those_of_the_package", "TQ2_0")),
    ],
    "quantizer.stored_scales": [
        ("tensor scale dropped", "self.blocks * self.tensor.reshape(1, 1)", "self.blocks", TWO),
        ("subnormal powers flushed", "exponent < -126, 1 <<", "exponent < -126, 0 <<", POWERS),
    ],
    "quantizer.choosing": [
        ("worst of the candidates", "loss < best[0]", "loss > best[0]", CHOSEN),
        ("neighbours on one side", "-((k + 1) // 2), k // 2", "-((k + 1) // 2), -(k // 2)", CHOSEN),
        ("error in units of the scale", "* ieee.square(safe)", "* 1.0", CHOSEN),
    ],
    "quantizer.blockformats.floats": [("e4m3 scale cut off", "((bits >> 19) & 1)", "0", stored("NVFP4"))],
}
MUTATIONS = [Mutation(name, module, *rest) for module, rows in TABLE.items() for name, *rest in rows]


class _Loader(SourceFileLoader):
    """Compiles the source of the mutated module anew, that of the others once."""

    mutation: Mutation | None = None

    def get_code(self, fullname: str):
        m = self.mutation
        if m is None or fullname != f"quantsim.{m.module}":
            return _unmutated(self.path)
        text = Path(self.path).read_text(encoding="utf-8")
        if text.count(m.old) != 1:  # no AssertionError: a mutation that is not there must not count as noticed
            raise LookupError(f"{m.name}: {m.old!r} occurs {text.count(m.old)} times in {m.module}")
        return compile(text.replace(m.old, m.new), self.path, "exec")


@lru_cache(None)
def _unmutated(path: str):
    return compile(Path(path).read_text(encoding="utf-8"), path, "exec")


class _Finder:
    """Finds the package and its tests before the import hook of the session does."""

    def __init__(self, mutation: Mutation | None):
        self.mutation = mutation

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if not _copied(name):
            return None
        file = ROOT / name.replace(".", "/")
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        loader = _Loader(name, str(file))
        loader.mutation = self.mutation
        return spec_from_file_location(name, file, loader=loader)


def _copied(name: str) -> bool:
    return name == "quantsim" or name.startswith(("quantsim.", "tests.test_"))


@contextmanager
def mutated(mutation: Mutation | None):
    """Within the block ``import`` gives a copy of quantsim and of its tests with the mutation."""
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if _copied(name)}
    finder = _Finder(mutation)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _copied(name)]:
            del sys.modules[name]
        sys.modules.update(real)


def _run(check: tuple) -> None:
    where, name, *args = check
    module = importlib.import_module(f"tests.{where}")
    if name.startswith("law_"):
        args = [module.qs.parse(args[0]), module._batch()[0]]
    getattr(module, name)(*args)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mutation_is_noticed(mutation):
    with mutated(mutation), pytest.raises(AssertionError):
        _run(mutation.check)


def test_each_check_passes_in_a_copy_without_mutation():
    with mutated(None):
        for check in {m.check[:2]: m.check for m in MUTATIONS}.values():
            _run(check)


def test_the_real_package_is_back():
    import quantsim

    assert sys.modules["quantsim"] is quantsim
    with mutated(None):
        assert importlib.import_module("quantsim") is not quantsim
    assert importlib.import_module("quantsim") is quantsim
