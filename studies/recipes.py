"""Do the document's recipes for quantizing to int8 run as printed, and do they give what they should?

Method. Every snippet is run as printed on the document's own construction, 16×32 weights uniform on [-1, 1) with five
outliers at ±100, and what it gives is compared with what this package's quantizer of that description gives. Whether a
zero point, once its code is mended, gains anything is measured as in the study ``ranges``.
Expected. Scales of rows must stand as a column to divide rows, so that code written without it fails on 16×32 and is
silently wrong on a square matrix; other snippets are right up to what NumPy's broadcasting makes of them.
Refuted if everything runs and is right.

Settles B37, B39 and B70 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.populations import Normal, Uniform
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

from .ranges import SYMMETRIC, ZERO_POINT, by_rule, helps
from .ranges import Config as Drawing

SHAPE, OUTLIERS, VALUE = (16, 32), 5, 100.0
INPUTS = 64
ONE_SIDED, TWO_SIDED = "+ outliers", "± outliers"  # populations of the study ranges


@dataclass(frozen=True)
class Config:
    """The seed of the construction, and what is drawn to judge a zero point."""

    seed: int = 42
    shape: tuple[int, int] = (256, 256)
    arrays: int = 64

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller arrays."""
        return cls(shape=(64, 64), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    """The snippets, then a zero point against outliers of both signs and of one."""
    drawing = Drawing(shape=config.shape, arrays=config.arrays, seed=config.seed)
    yield "code", partial(run_recipes, config.seed)
    for population in (TWO_SIDED, ONE_SIDED):
        yield population, partial(by_rule, drawing, population, rules=(SYMMETRIC, ZERO_POINT))


# --- as printed in the document -------------------------------------------------------------------------------------


def detect_outliers(W: np.ndarray, threshold: float = 3) -> np.ndarray:
    mean = np.mean(W)
    std = np.std(W)
    return np.abs(W - mean) > threshold * std


def quantize_with_outliers(w: np.ndarray, threshold: float = 3.0) -> np.ndarray:
    std = np.std(w)
    mask = np.abs(w) > threshold * std
    w_quant = per_tensor_quant(w[~mask])
    w_quant[mask] = w[mask]
    return w_quant


def quantize_int8(w: np.ndarray) -> np.ndarray:
    scale = np.max(np.abs(w)) / 127.0
    q = np.clip(np.round(w / scale), -127, 127).astype(np.int8)
    return q * scale


# --- what it calls and does not print -------------------------------------------------------------------------------


def per_tensor_quant(w: np.ndarray) -> np.ndarray:
    """One symmetric scale."""
    scale = np.max(np.abs(w)) / 127
    return np.round(w / scale) * scale


# --- what each snippet should give ----------------------------------------------------------------------------------


class Example(NamedTuple):
    """The construction, and inputs for its transpose: the document multiplies ``X @ W``."""

    W: np.ndarray
    X: np.ndarray
    is_outlier: np.ndarray


class Found(NamedTuple):
    """Whether what a snippet gives is right, and what that is."""

    right: bool
    says: str = ""


def draw_example(seed: int) -> Example:
    """One matrix, a function of the seed."""
    key = population_key(seed, "code")
    population = Uniform(3**-0.5).with_outliers(count=OUTLIERS, value=VALUE)
    inputs = Normal().sample(jax.random.fold_in(key, 1), (INPUTS, SHAPE[0]))
    W, is_outlier = population.sample(key, SHAPE), population.is_outlier(key, SHAPE)
    return Example(np.asarray(W), np.asarray(inputs), np.asarray(is_outlier))


def same(a: Any, b: Any) -> bool:
    """Whether all numbers agree to float32's digits."""
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=1e-6))


def one_scale(example: Example) -> Found:
    expected = parse("int8:tensor").quantize(example.W).dequantize()
    return Found(same(quantize_int8(example.W), expected), "what int8:tensor gives")


def output_of_codes(example: Example) -> Found:
    W, X = example.W, example.X
    codes = np.asarray(parse("int8:tensor").quantize(W).codes)
    off = np.linalg.norm(X @ codes - X @ W) / np.linalg.norm(X @ W)
    return Found(bool(off < 0.1), f"{off:.0%} off the output: the scale is missing")


def scales_of_rows(example: Example) -> np.ndarray:
    return np.max(np.abs(example.W), axis=1) / 127


def row_scales(example: Example) -> Found:
    expected = parse("int8:channel").quantize(example.W).scale
    return Found(same(scales_of_rows(example), expected), "int8:channel's")


def divided_by_row_scales(example: Example) -> Found:
    W, scales = example.W, scales_of_rows(example)
    return Found(same(W / scales, W / scales[:, None]))


def square_divided_by_row_scales(example: Example) -> Found:
    scales = scales_of_rows(example)
    square = example.W[:, : len(scales)]
    right = same(square / scales, square / scales[:, None])
    return Found(right, "divides the columns by the scales of the rows")


def clipped_at_percentile(example: Example) -> Found:
    W = example.W
    p = np.percentile(np.abs(W), 99.9)
    clips = int((np.clip(W, -p, p) != W).sum())
    return Found(clips > 0, f"clips {clips} of 5")


def affine_scale(example: Example) -> Found:
    W = example.W
    expected = parse("int8:tensor:minmax").quantize(W).scale
    return Found(same((max(W) - min(W)) / 255, expected))


def affine_scale_mended(example: Example) -> Found:
    W, expected = example.W, parse("int8:tensor:minmax").quantize(example.W)
    scale = (np.max(W) - np.min(W)) / 255
    right = same(scale, expected.scale) and same(round(-np.min(W) / scale), expected.zero_point)
    return Found(right, "scale and zero point of int8:tensor:minmax")


def three_sigma(example: Example) -> Found:
    found, is_outlier = detect_outliers(example.W), example.is_outlier
    says = f"finds {found[is_outlier].sum()} of 5 outliers, {found[~is_outlier].sum()} others"
    return Found(same(found, is_outlier), says)


def outliers_kept_of_matrix(example: Example) -> Found:
    return Found(quantize_with_outliers(example.W).shape == example.W.shape)


def outliers_kept_of_vector(example: Example) -> Found:
    return Found(quantize_with_outliers(example.W.ravel()).size == example.W.size)


class Recipe(NamedTuple):
    """A snippet as it is shown, the statement that it belongs to, and what runs and judges it."""

    claim: str
    code: str
    judge: Callable[[Example], Found]


RECIPES = (
    Recipe("B21", "quantize_int8(W)", one_scale),
    Recipe("B35a", "X @ W_int8", output_of_codes),
    Recipe("B37", "scales = np.max(np.abs(W), axis=1) / 127", row_scales),
    Recipe("B37", "W / scales", divided_by_row_scales),
    Recipe("B37", "W[:, :16] / scales, so that W is square", square_divided_by_row_scales),
    Recipe("B38", "np.clip(W, -p, p), p = np.percentile(np.abs(W), 99.9)", clipped_at_percentile),
    Recipe("B39", "scale = (max(W) - min(W)) / 255", affine_scale),
    Recipe("B39", "the same with np.max and np.min", affine_scale_mended),
    Recipe("B42", "detect_outliers(W)", three_sigma),
    Recipe("B70", "quantize_with_outliers(W)", outliers_kept_of_matrix),
    Recipe("B70", "quantize_with_outliers(W.ravel())", outliers_kept_of_vector),
)


def run_recipes(seed: int) -> list[dict]:
    """A row for each snippet: whether it runs, whether what it gives is right, and what that is."""
    example = draw_example(seed)
    return [
        {"kind": "code", "claim": recipe.claim, "code": recipe.code} | outcome(recipe, example) for recipe in RECIPES
    ]


def outcome(recipe: Recipe, example: Example) -> dict:
    """What became of a snippet; what it raises is what it says."""
    try:
        found = recipe.judge(example)
    except (ValueError, IndexError) as reason:
        return {"runs": False, "right": False, "says": f"{type(reason).__name__}: {reason}"}
    return {"runs": True, "right": bool(found.right), "says": found.says}


def draw(rows: Rows) -> plotting.Figure:
    """A line for each snippet: a tick or a cross, the statement, the code, what it gives or raises."""
    fig, axes = plotting.figure(height=1.9)
    ax, recipes = axes[0, 0], rows.where(kind="code")
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(len(recipes) - 0.5, -0.5))
    for line, row in enumerate(recipes):
        mark, color = ("✓", plotting.GREEN) if row["right"] else ("✗", plotting.VERMILION)
        says = row["says"] if len(row["says"]) < 62 else row["says"][:60] + " …"
        plotting.note(ax, 0.0, line, mark, color=color, fontweight="bold", va="center", fontsize=7)
        plotting.note(ax, 0.025, line, row["claim"], va="center")
        plotting.note(ax, 0.075, line, row["code"], family="monospace", va="center", fontsize=6)
        plotting.note(ax, 0.57, line, says, va="center")
    return fig


def right(rows: Rows, claim: str) -> float:
    """Share of the snippets of a statement that run and give what they should."""
    return share(row["right"] for row in rows.where(kind="code", claim=claim))


def zero_point_is_right_and_helps(rows: Rows) -> float:
    """Share of four cases: the code is right as printed, as mended; it helps against outliers of two signs, of one."""
    gains = helps(rows, rules=(ZERO_POINT,), populations=(TWO_SIDED, ONE_SIDED))
    return (right(rows, "B39") + gains) / 2


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "B37",
        statement="per-channel code `np.max(np.abs(W),axis=1)/127`",
        definition="share of three uses of the code that are right: the scales; W / scales; W / scales if W is square",
        number=partial(right, claim="B37"),
        rule=share_of_cases("it gives what a scale a row must give"),
        reading="the scales are right; dividing by them as printed fails, or, if W is square, silently takes the "
        "columns",
    ),
    Claim(
        "B39",
        statement="asymmetric code, /255",
        definition="share of four cases that hold: as printed; with np.max; a gain with outliers of both signs; of one",
        number=zero_point_is_right_and_helps,
        rule=share_of_cases("it runs and is right, or takes a tenth off the error"),
        reading="max(W) of a matrix raises; mended, it is the affine scale, which helps against one-sided outliers "
        "only",
    ),
    Claim(
        "B70",
        statement="`quantize_with_outliers` code",
        definition="share of two inputs with outliers, a matrix and a vector, on which the code runs",
        number=partial(right, claim="B70"),
        rule=share_of_cases("it gives an array of the input's shape"),
        reading="w[~mask] is shorter than the mask that is then applied to it: IndexError",
    ),
)
