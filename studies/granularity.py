"""How many weights should share one int8 scale, and which ones?

The same weights are cut into blocks of 8 … 4096, rows, and one tensor. Rows of n weights with a scale each are nothing but
blocks of n, so q8_0 (here ``int8:block32:absmax:f16``; the byte-exact one comes later) should beat per channel at every
fan-in above 32. Then weights whose rows or columns differ in size by a lognormal factor are cut along both axes. Errors
uniform within a step predict every SQNR from E absmax^2, that of unequal weights too. Expected: the SQNR falls with
each doubling of the block; a scale per output helps most against unequal rows, a scale per input against unequal columns,
blocks against both. Refuted if a coarser cut of the same weights has less error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from quantsim import ieee, plotting, theory
from quantsim._types import ArrayLike, Matrix, Shape
from quantsim.claims import Claim, at_least, share_of_cases
from quantsim.errors import error
from quantsim.granularity import scale_shape, to_blocks
from quantsim.populations import Normal, Population, parse
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.study import Cell
from quantsim.sweep import population_key

TENSOR, CHANNEL, Q8_0 = "int8:tensor", "int8:channel", "int8:block32:absmax:f16"
CUTS = {TENSOR: "tensor", CHANNEL: "per output", "int8:channel@1": "per input", Q8_0: "32 inputs",
        "int8:block32@0:absmax:f16": "32 outputs"}  # fmt: skip
STRUCTURES = ("equal", "rows", "columns")


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    weights: int = 2**20  # of an array
    arrays: int = 8
    blocks: tuple[int, ...] = tuple(2**k for k in range(3, 13))
    fan_ins: tuple[int, ...] = tuple(2**k for k in range(6, 14))
    side: int = 1024  # rows and columns of the unequal matrices
    octaves: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)

    @classmethod
    def small(cls) -> "Config":
        return cls(weights=2**17, arrays=2, side=256)


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield f"blocks {name}", partial(_blocks, config, name)
        yield f"fan-ins {name}", partial(_fan_ins, config, name)
        yield f"structures {name}", lambda n=name: [r for s in STRUCTURES for r in _unequal(config, n, s, 1.0)]
    yield "octaves", lambda: [r for octaves in config.octaves for r in _unequal(config, "normal", "rows", octaves)]
    yield "rows", lambda: _by_size(config, octaves=2.0)
    yield "format", lambda: [_format()]


@partial(jax.jit, static_argnums=2)
def _row_sums(w: Matrix, factor: Matrix, specs: tuple[str, ...]) -> list[Any]:
    """For each row the sums of w^2, and of e^2 under every quantizer."""
    w = w * factor
    errors = [error(w, quantizer(s).roundtrip(w)) for s in specs]
    return [ieee.ordered_sum(ieee.square(v))[:, 0] for v in (w, *errors)]


def _cut(config: Config, name: str, shape: Shape, specs: tuple[str, ...], factor: ArrayLike = 1.0) -> np.ndarray:
    """Row sums (1 + quantizers, arrays, rows) of arrays of a population, in float64; factor k is that of row or column k."""
    base, factor = population_key(config.seed, name), jnp.broadcast_to(jnp.asarray(factor, jnp.float32), shape)
    draws = (parse(name).sample(jax.random.fold_in(base, k), shape) for k in range(config.arrays))
    queued = [_row_sums(w, factor, specs) for w in draws]
    return np.moveaxis(np.array(queued, np.float64), 0, 1)


def _db(name: str, of: np.ndarray, over: np.ndarray) -> dict[str, float]:
    """10 log10 of sum of / sum over, arrays being the units of its standard error (delta method)."""
    a, b = of.sum(axis=-1), over.sum(axis=-1)
    r, n = a.sum() / b.sum(), a.size
    se = np.sqrt(((a - r * b) ** 2).sum() * n / (n - 1)) / b.sum() / r
    return {name: float(10 * np.log10(r)), f"{name}_se": float(10 / np.log(10) * se)}


def _mse(pop: Population, n: int) -> float:
    return theory.absmax_int_mse(pop, n, 8) / pop.moment(2)


def _blocks(config: Config, name: str) -> list[dict]:
    shape = (config.weights // config.fan_ins[-1], config.fan_ins[-1])
    specs = (*(f"int8:block{n}:absmax:f16" for n in config.blocks), CHANNEL, TENSOR)
    w2, *e2 = _cut(config, name, shape, specs)
    rows = []
    for s, e in zip(specs, e2, strict=True):
        n = config.weights // int(np.prod(scale_shape(quantizer(s).granularity, shape)))
        row = {"kind": "block", "population": name, "spec": s, "per_scale": n, "extra_bits": quantizer(s).bits_per_weight(shape) - 8}
        row["predicted_sqnr_db"] = -10 * np.log10(_mse(parse(name), n))
        rows.append(row | _db("sqnr_db", w2, e) | _db("lost_db", e, e2[0]))
    return rows


def _factors(count: int, octaves: float) -> np.ndarray:
    """Lognormal sizes with this standard deviation of log2, 64 quantiles in random order, mean square 1."""
    sizes = 2.0 ** (octaves * ndtri((np.arange(64) + 0.5) / 64))
    return np.random.default_rng(0).permutation(np.resize(sizes / np.sqrt(np.mean(sizes**2)), count))


def _fan_ins(config: Config, name: str) -> list[dict]:
    """How much finer than q8_0 (in dB) a scale per output, or one for the tensor, is."""
    rows, pop = [], parse(name)
    for n, octaves in product(config.fan_ins, (0.0, 1.0)):
        shape = (config.weights // n, n)
        _, *e2, q8_0 = _cut(config, name, shape, (CHANNEL, TENSOR, Q8_0), _factors(shape[0], octaves)[:, None])
        for s, e, shared in zip((CHANNEL, TENSOR), e2, (n, config.weights), strict=True):
            row = {"kind": "fan_in", "population": name, "fan_in": n, "octaves": octaves, "spec": s}
            row["predicted_finer_db"] = 10 * np.log10(_mse(pop, 32) / _mse(pop, shared)) if s == CHANNEL or not octaves else None
            rows.append(row | _db("finer_db", q8_0, e))
    return rows


def _unequal(config: Config, name: str, structure: str, octaves: float) -> list[dict]:
    shape, f = (config.side, config.side), _factors(config.side, octaves)
    factor = np.broadcast_to({"equal": 1.0, "rows": f[:, None], "columns": f}[structure], shape)
    w2, *e2 = _cut(config, name, shape, tuple(CUTS), factor)
    rows = []
    for s, e in zip(CUTS, e2, strict=True):
        row = {"kind": "unequal", "population": name, "structure": structure, "octaves": octaves, "spec": s}
        row["predicted_sqnr_db"] = _predicted(factor, s) if name == "normal" else None
        rows.append(row | _db("sqnr_db", w2, e) | _db("gain_db", e2[0], e))
    return rows


def _predicted(factor: np.ndarray, s: str) -> float:
    """SQNR of normal weights times ``factor``; blocks of the same relative sizes need one quadrature."""
    granularity = quantizer(s).granularity
    assert granularity
    blocks = np.sort(np.asarray(to_blocks(jnp.asarray(factor), granularity), np.float64), axis=1)
    kinds, kind = np.unique((blocks / blocks[:, -1:]).round(6), axis=0, return_inverse=True)
    power = np.array([theory.unequal_absmax_power(Normal(), k, 2) for k in kinds])[kind.ravel()]
    n = blocks.shape[1]
    return float(-10 * np.log10((power * blocks[:, -1] ** 2).mean() / 127**2 / 12 * (n - 1) / n / (factor**2).mean()))


def _by_size(config: Config, octaves: float) -> list[dict]:
    """SQNR of single rows, small and large, of one matrix."""
    shape, f, specs = (config.side, config.side), _factors(config.side, octaves), (TENSOR, CHANNEL, Q8_0)
    w2, *e2 = _cut(config, "normal", shape, specs, f[:, None])
    step = np.sqrt(theory.unequal_absmax_power(Normal(), np.repeat(f, config.side), 2)) / 127
    rows = []
    for size, (s, e) in product(np.unique(f)[::3], zip(specs, e2, strict=True)):
        row = {"kind": "row", "size": size, "spec": s}
        mse = theory.levels_mse(Normal(size), step * np.arange(-127, 128)) / size**2 if s == TENSOR else np.nan
        row["predicted_sqnr_db"] = -10 * np.log10(mse)
        rows.append(row | _db("sqnr_db", w2[:, f == size], e[:, f == size]))
    return rows


def _format() -> dict:
    """What is stored of 64 weights in the blocks of q8_0."""
    qw = quantizer(Q8_0).quantize(np.append(np.linspace(-1, 1, 63), 0.0))
    return {"kind": "format", "per_scale": 64 // qw.scale.size, "zero_point": int(qw.codes[-1]), "bytes": qw.nbytes}


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("aaaabb;aaaacc;dddeee", height=5.4)
    return fig


CLAIMS = ()
