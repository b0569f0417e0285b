"""Does a limited range of the weights make int8 fine enough, or a limited ratio of the largest to the others?

Method. Normal weights grow until the largest reaches that of trained weights, 10, up to that of fp16, 65504: once all
of them, once only 1 in 32, which is then the largest of its block. The SQNR of the others is measured, under one scale
for the tensor and under one for 32 weights.
Expected. Where all grow the scale grows with them and nothing changes. Where some grow, the step follows the largest
and the others err like it: the SQNR falls 20 dB a decade down to nothing.
Refuted if narrowing the range of all weights gains anything.

Settles A11 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import theory
from quantsim._types import Matrix, Weights
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import Estimate, columns, decibels, difference
from quantsim.populations import Normal, samples
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys

from ._axes import logarithmic

SHARING = {"int8:tensor": "one scale", "q8_0": "a scale for 32"}  # spec and name
TRAINED, FP16_LARGEST = 10.0, 65504.0  # largest weights, as stated
WAYS = ("all grow", "1 in 32 grows")
EVERY = 32


@dataclass(frozen=True)
class Config:
    """Largest weights, and the arrays that are drawn once for all of them."""

    largest: tuple[float, ...] = (TRAINED, *logarithmic(20.0, 4e4, 11), FP16_LARGEST)
    shape: tuple[int, int] = (64, 1024)
    arrays: int = 8
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer largest weights, fewer and smaller arrays."""
        return cls(largest=(TRAINED, 200.0, 4000.0, FP16_LARGEST), shape=(16, 1024), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    """One cell for each largest weight."""
    for largest in config.largest:
        yield f"largest {largest:g}", partial(by_way, config, largest)


def by_way(config: Config, largest: float) -> list[dict]:
    """SQNR of the others, for both ways to grow and both ways to share a scale."""
    w = samples(Normal(), array_keys(config.seed, "normal", config.arrays), config.shape)
    rows = []
    for way, squares in grown_squares(w, jnp.float32(largest)).items():
        for spec, errors in squares.errors.items():
            row = {"kind": "largest", "way": way, "spec": spec, "largest": largest}
            row["predicted_sqnr_db"] = predicted_sqnr_db(way, spec, largest, config.shape)
            rows.append(row | columns(sqnr_db=decibels(squares.weights, errors)))
    return rows


def predicted_sqnr_db(way: str, spec: str, largest: float, shape: tuple[int, int]) -> float:
    """-10 log10 of the mse of weights of variance 1.

    While all grow the largest of those that share a scale sets the step; where some grow, it is their size.
    """
    sharing = {"int8:tensor": shape[0] * shape[1], "q8_0": 32}[spec]
    if way == "all grow":
        mse = theory.absmax_int_mse(Normal(), sharing, bits=8)
    else:
        mse = theory.int_mse(Normal(), largest, bits=8)
    return float(-10 * np.log10(mse))


class Squares(NamedTuple):
    """Sums over 31 of 32 weights of each row: of w², and of e² under each quantizer."""

    weights: Float[Array, "arrays out"]
    errors: dict[str, Float[Array, "arrays out"]]


@jax.jit
def grown_squares(arrays: Weights, largest: Array) -> dict[str, Squares]:
    """What is left of 31 of 32 weights if all have grown until the largest is about so large, or only the others."""

    def one(w: Matrix) -> dict[str, Squares]:
        is_32nd = jnp.arange(w.shape[1]) % EVERY == 0
        grown = {
            "all grow": w * (largest / theory.expected_absmax(Normal(), w.size)),
            "1 in 32 grows": jnp.where(is_32nd, jnp.sign(w) * largest, w),
        }
        return {way: squares(v, jnp.broadcast_to(~is_32nd, w.shape)) for way, v in grown.items()}

    return jax.lax.map(one, arrays)


def squares(w: Matrix, counted: Array) -> Squares:
    """Sums over the counted weights of each row."""
    errors = {spec: error(w, parse(spec).roundtrip(w)) for spec in SHARING}
    of_rows = partial(jnp.sum, axis=-1, where=counted)
    return Squares(of_rows(w * w), {spec: of_rows(e * e) for spec, e in errors.items()})


def draw(rows: Rows) -> plotting.Figure:
    """SQNR of the other weights against the largest."""
    fig, axes = plotting.figure(width="single", height=2.6)
    ax = axes[0, 0]
    for at, (way, spec) in enumerate((way, spec) for way in WAYS for spec in SHARING):
        plotting.measured(ax, rows.where(way=way, spec=spec), "largest", "sqnr_db", series=at)
    plotting.note(ax, 30, 47, "all grow: a scale for 32 (q8_0)")
    plotting.note(ax, 30, 36, "all grow: one scale")
    plotting.note(ax, 150, 13, "1 in 32 grows: either")
    for largest, text, side in ((TRAINED, " A11: 10", "left"), (FP16_LARGEST, "A08: 65504 ", "right")):
        ax.axvline(largest, color="0.1", lw=0.8, ls=":")
        plotting.note(ax, largest, 51, text, ha=side)
    ax.set(xscale="log", ylim=(-2, 55), xlabel="largest weight", ylabel="int8 SQNR of the others (dB)")
    return fig


def narrowing_gains(rows: Rows) -> float:
    """Share of two ways to grow × two ways to share a scale in which narrowing 65504 to 10 gains a decibel."""
    cases = []
    for spec in SHARING:
        for way in WAYS:
            found = rows.where(way=way, spec=spec)
            narrow, wide = (Estimate(row["sqnr_db"], row["sqnr_db_se"]) for row in (found[0], found[-1]))
            cases.append(difference(narrow, wide).clearly_above(1.0))
    return share(cases)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A11",
        statement="the *limited range* is why int8 resolution suffices",
        definition="share of (all weights grow, 1 in 32 grows) × (int8 per tensor, q8_0)",
        number=narrowing_gains,
        rule=share_of_cases("narrowing the largest weight from fp16's 65504 to 10 gains the others at least 1 dB"),
        reading="a range as such costs nothing, the scale takes it up (too small weights do, where the scale is fp16); "
        "what must be limited is the ratio of the largest weight to the others",
    ),
)
