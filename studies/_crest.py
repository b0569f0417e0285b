"""Blocks of a given crest factor, max |w| / rms, and where integers and floats of as many bits err alike on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy import optimize, stats

from quantsim.measure.ratios import CLEARLY, Estimate, columns, decibels
from quantsim.measure.squares import Squares, squares
from quantsim.populations import Normal, Uniform
from quantsim.quantizer import parse
from quantsim.sweep import population_key

F64 = NDArray[np.float64]

SHAPED, NATURAL = "shaped", "natural"
_BISECTIONS = 32  # of the logarithm of a power, over 20 octaves: to 5e-9


@dataclass(frozen=True)
class Pair:
    """An integer and a float format of as many bits, under one scale.

    Attributes:
        name: of the pair.
        integer: its spec.
        floating: its spec.
        block: weights that share a scale.
        printed: crest factor below which the integer is said to err less (arXiv:2510.25602v1, section 4.2).
        levels: the largest code of the integer.
        mantissa, bias, largest: of the float: mantissa bits, exponent bias, largest value.
        slack: how much larger a scale is than it had to be, in the published formulas.
        two_level: whether the largest weight of a block is no matter of rounding, as with e4m3 scales.
    """

    name: str
    integer: str
    floating: str
    block: int
    printed: float
    levels: int
    mantissa: int
    bias: int
    largest: float
    slack: float
    two_level: bool = False


_UP = "absmax:e8m0:rceil"  # the smallest power of two at which nothing clips
_TWO = "absmax:ue4m3+f32"
PAIRS = (
    Pair("MXINT4, MXFP4", f"int4:block32:{_UP}", f"e2m1:block32:{_UP}", 32, 2.04, 7, 1, 1, 6.0, 1.5),
    Pair("NVINT4, NVFP4", f"int4:block16:{_TWO}", f"e2m1:block16:{_TWO}", 16, 2.39, 7, 1, 1, 6.0, 1.05, True),
    Pair("MXINT6, MXFP6", f"int6:block32:{_UP}", f"e2m3:block32:{_UP}", 32, 1.96, 31, 3, 1, 7.5, 1.5),
    Pair("MXINT8, MXFP8", f"int8:block32:{_UP}", f"e4m3:block32:{_UP}", 32, 7.55, 127, 3, 7, 448.0, 1.5),
)


# --- blocks ---------------------------------------------------------------------------------------------------------


def shaped(crest: float, n: int, *, blocks: int, seed: int) -> Float[Array, "blocks n"]:
    """Normal blocks whose magnitudes are raised to the power that gives each its crest factor, of sizes 1 to 2.

    Every crest factor between 1 and sqrt(n) has one such power: the rms over the maximum rises as the power falls.
    """
    z = np.asarray(Normal().sample(population_key(seed, f"crest {n}"), (blocks, n)), np.float64)
    logs = np.log(np.abs(z) / np.abs(z).max(axis=1, keepdims=True))
    low, high = np.full((blocks, 1), 2.0**-10), np.full((blocks, 1), 2.0**10)
    for _ in range(_BISECTIONS):
        power = np.sqrt(low * high)
        below = np.exp(2 * power * logs).mean(axis=1, keepdims=True) ** -0.5 < crest
        low, high = np.where(below, power, low), np.where(below, high, power)
    return jnp.asarray(np.sign(z) * np.exp(low * logs) * sizes(n, blocks, seed), jnp.float32)


def sizes(n: int, blocks: int, seed: int) -> F64:
    """A factor of each block, evenly spread over the logarithms of an octave: no scale is nearer to a power of two."""
    drawn = Uniform().sample(population_key(seed, f"size {n}"), (blocks, 1))
    return 2.0 ** (np.asarray(drawn, np.float64) / (2 * 3**0.5) + 0.5)  # uniform of variance 1: from -sqrt(3) up


def natural(n: int, *, blocks: int, seed: int) -> Float[Array, "blocks n"]:
    """Normal blocks as they come, of sizes 1 to 2."""
    z = np.asarray(Normal().sample(population_key(seed, f"crest {n}"), (blocks, n)), np.float64)
    return jnp.asarray(z * sizes(n, blocks, seed), jnp.float32)


def crest_factors(w: Float[Array, "blocks n"]) -> F64:
    """Of each block."""
    a = np.abs(np.asarray(w, np.float64))
    return a.max(axis=1) / np.sqrt((a * a).mean(axis=1))


# --- measured -------------------------------------------------------------------------------------------------------


def of_shaped(n: int, crests: tuple[float, ...], *, units: int, blocks: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of all pairs with such blocks, for each crest factor that these can have."""
    for crest in crests:
        if 1 < crest < n**0.5:
            w = shaped(crest, n, blocks=units * blocks, seed=seed).reshape(units, blocks, n)
            yield from (row(pair, SHAPED, crest, w) for pair in PAIRS if pair.block == n)


def of_natural(n: int, edges: tuple[float, ...], *, units: int, blocks: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of all pairs with such blocks, for each class of crest factors between two quantiles."""
    w = natural(n, blocks=units * blocks, seed=seed)
    crests = crest_factors(w)
    bounds = np.quantile(crests, edges)
    of_unit = np.arange(len(crests)) // blocks
    for low, high in pairwise(bounds):
        inside = (crests >= low) & (crests < high)
        fewest = int(np.bincount(of_unit[inside], minlength=units).min())
        chosen = np.stack([np.flatnonzero(inside & (of_unit == unit))[:fewest] for unit in range(units)])
        crest, some = float(crests[chosen].mean()), jnp.asarray(np.asarray(w)[chosen])
        yield from (row(pair, NATURAL, crest, some) for pair in PAIRS if pair.block == n)


def row(pair: Pair, way: str, crest: float, units: Float[Array, "units blocks n"]) -> dict[str, Any]:
    """SQNR of both formats, and what the integer is ahead."""
    a, b = (squares(units, parse(spec)) for spec in (pair.integer, pair.floating))
    about = {"kind": "crest", "pair": pair.name, "way": way, "crest": crest, "weights": int(units.size)}
    found = columns(integer_db=a.sqnr_db, float_db=b.sqnr_db, ahead_db=ahead(a, b))
    return about | found | {"predicted_ahead_db": integer_formula(pair, crest) - float_formula(pair, crest)}


def ahead(integer: Squares, of_float: Squares) -> Estimate:
    """Decibels by which the integer errs less, paired unit by unit."""
    return decibels(of_float.error, integer.error)


def crossing(rows: list[dict[str, Any]]) -> Estimate:
    """The crest factor at which both err alike, between the two rows where the sign turns; NaN if it does not."""
    ordered = sorted(rows, key=lambda r: r["crest"])
    for a, b in pairwise(ordered):
        if a["ahead_db"] > 0 >= b["ahead_db"]:
            slope = (b["ahead_db"] - a["ahead_db"]) / (b["crest"] - a["crest"])
            se = max(a["ahead_db_se"], b["ahead_db_se"]) / abs(slope)
            return Estimate(a["crest"] - a["ahead_db"] / slope, se)
    return Estimate(float("nan"), float("nan"))


def agree(measured: Estimate, printed: float, digits: int) -> bool:
    """Whether a printed number is the measured one within its rounding and three standard errors."""
    return bool(abs(measured.value - printed) <= 0.5 * 10.0**-digits + CLEARLY * measured.se)


# --- the published formulas -----------------------------------------------------------------------------------------


def integer_formula(pair: Pair, crest: float, levels: float | None = None) -> float:
    """SQNR in dB of theorem 1: 10 log10(12 Q^2 / (rho kappa)^2), and n / (n - 1) where the largest weight is exact.

    The paper takes 2^(b-1) for Q, which has 2^(b-1) - 1 for its value; here Q is the largest code unless given.
    """
    q = pair.levels if levels is None else levels
    exact = 10 * np.log10(pair.block / (pair.block - 1)) if pair.two_level else 0.0
    return float(10 * np.log10(12 * q**2 / (pair.slack * crest) ** 2) + exact)


def float_formula(pair: Pair, crest: float) -> float:
    """SQNR in dB of theorem 2: weights above the smallest normal number T err by alpha w^2, the others by a step.

    -10 log10(alpha E[w^2; |w| >= T] + beta (rho kappa)^2 P(|w| < T)), with alpha = 1 / (24 4^M).
    """
    step = pair.slack * crest / pair.largest
    edge = step * 2.0 ** (1 - pair.bias)
    inside = 2 * stats.norm.cdf(edge) - 1
    above = 1 - inside + 2 * edge * stats.norm.pdf(edge)
    above = max(above - crest**2 / pair.block, 0.0) if pair.two_level else above
    alpha = 1 / (24 * 4**pair.mantissa)
    subnormal = (step * 2.0 ** (1 - pair.bias - pair.mantissa)) ** 2 / 12
    return float(-10 * np.log10(alpha * above + subnormal * inside))


def formula_crossing(pair: Pair, levels: float) -> float:
    """The crest factor at which the published formulas are equal."""

    def gap(crest: float) -> float:
        return integer_formula(pair, crest, levels) - float_formula(pair, crest)

    crossing: Any = optimize.brentq(gap, 1.2, 12.0)
    return float(crossing)
