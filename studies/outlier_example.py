"""Are the numbers right that the document gives for five outliers of ±100 among 16×32 int8 weights?

Method. The construction, 99 % of the weights uniform on [-1, 1) and five of 512 at ±100, is drawn many times (as the
study ``outliers`` does) and once from the document's own seed. The document's table of five weights is computed anew.
As ±100 falls on the last code and has no error, the outliers are also spread from 50 to 150.
Expected. The step is max |w| / 127 = 0.787, so that three codes lie within ±1 and the bulk errs by about a quarter of
a step, 0.2; the document's numbers hold where they follow from that step, and its means where they are means.
Refuted if the bulk keeps more than three codes.

Settles B24, B25, B27, B28, B29, B30, B32, B33, B34 and B35a of the ledger, which numbers the statements of two
documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, share, share_of_cases, stated, value_of
from quantsim.lab.matrix import document_matrix
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.quantizer import parse
from quantsim.rows import Rows

from .outliers import INT8, OUTLIER, OUTLIERS, SHAPE, STATED_TYPICAL_ERROR, construction, with_over_without
from .outliers import Config as Drawing


class Stated(NamedTuple):
    """A line of the document's table."""

    weight: float
    code: int
    dequantized: float
    error: float


TABLE = (
    Stated(0.0, 0, 0.0, 0.0),
    Stated(0.5, 1, 0.787, 0.287),
    Stated(1.0, 1, 0.787, 0.213),
    Stated(10.0, 13, 10.236, 0.236),
    Stated(100.0, 127, 100.0, 0.0),
)
NORMAL_WEIGHTS = TABLE[:3]  # the document's word for those that are no outliers
LAST_DIGIT = 6e-4  # three decimals are given


@dataclass(frozen=True)
class Config:
    """The document's seed, and how many matrices are drawn."""

    seed: int = 42
    matrices: int = 1024

    @classmethod
    def small(cls) -> "Config":
        """Fewer matrices."""
        return cls(matrices=64)


def measure(config: Config) -> Iterator[Cell]:
    """The construction with outliers all at ±100 and with spread ones; the document's own matrix and table."""
    drawing = Drawing(matrices=config.matrices, seed=config.seed)
    for values in ("exact", "spread"):
        yield values, partial(construction, drawing, values)
    yield "document", lambda: [own_matrix(config.seed), *table(), *errors_by_weight()]


def own_matrix(seed: int) -> dict:
    """The matrix of the document's own code: its uniform one, five weights replaced by ±100."""
    random = np.random.RandomState(seed)
    replaced = np.isin(np.arange(512).reshape(SHAPE), random.choice(512, OUTLIERS, replace=False))
    w = jnp.asarray(np.where(replaced, random.choice([-OUTLIER, OUTLIER], SHAPE), document_matrix(seed)))
    quantized = INT8.quantize(w)
    e = np.abs(np.asarray(error(w, quantized.dequantize())))[~replaced]
    codes = np.unique(np.asarray(quantized.codes)[~replaced])
    return {
        "kind": "document",
        "mean_abs": e.mean(),
        "share_above": (e > STATED_TYPICAL_ERROR).mean(),
        "codes": len(codes),
    }


def table() -> list[dict]:
    """The document's five weights, whose largest gives them their scale of 100 / 127."""
    w = jnp.array([line.weight for line in TABLE])
    quantized, bf16 = INT8.quantize(w), parse("bf16").roundtrip(w)
    codes, w_hat = np.asarray(quantized.codes), np.asarray(quantized.dequantize())
    return [
        {
            "kind": "table",
            "weight": line.weight,
            "agrees": bool(
                code == line.code
                and abs(value - line.dequantized) < LAST_DIGIT
                and abs(abs(value - line.weight) - line.error) < LAST_DIGIT
            ),
            "is_bf16": bool(as_bf16 == line.weight),
            "possible": line.weight <= 1 or line.weight == OUTLIER,
        }
        for line, code, value, as_bf16 in zip(TABLE, codes, w_hat, np.asarray(bf16), strict=True)
    ]


def errors_by_weight() -> list[dict]:
    """Error against weight where the largest weight is 100 and where it is 1; nothing random in it."""
    w = jnp.linspace(0.0, 1.0, 1001)
    return [
        {"kind": "staircase", "largest": top, "w": w, "e": jnp.abs(error(w, INT8.roundtrip(jnp.append(w, top))[:-1]))}
        for top in (OUTLIER, 1.0)
    ]


def draw(rows: Rows) -> plotting.Figure:
    """The codes as a ruler, with outliers and without; error against weight; how often weights err by how much."""
    fig, axes = plotting.mosaic("aaaa;bbcc;.dd.", height=4.2, height_ratios=(0.3, 0.3, 1.7))
    ruler(axes["a"], OUTLIER, OUTLIER, "255 codes from −100 to 100; 99 % of the weights live in the orange sliver, ±1")
    ruler(axes["b"], OUTLIER, 1.0, "the sliver: 3 codes")
    ruler(axes["c"], 1.0, 1.0, "without outliers: 255 codes")
    against_weight(axes["d"], rows)
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def ruler(ax: plotting.Axes, largest: float, shown: float, text: str) -> None:
    """The dequantized codes of int8 between -shown and shown, where the largest weight sets the scale."""
    values = levels(FORMATS["int8"]) * largest / 127
    ax.axvspan(-1, 1, color=plotting.ORANGE, alpha=0.6, lw=0)
    ax.vlines(values[abs(values) <= shown], 0, 1, color="0.1", lw=2 if shown < largest else 0.4)
    ax.set(xlim=(-1.01 * shown, 1.01 * shown), ylim=(0, 1), yticks=[])
    ax.grid(visible=False)
    ax.set_title(text, fontsize=plotting.NOTE)


def against_weight(ax: plotting.Axes, rows: Rows) -> None:
    """Error of each weight, the mean over the bulk, and what the document's table says."""
    mean = mean_error(rows).value
    for label, largest, color in (("with ±100", OUTLIER, plotting.VERMILION), ("without", 1.0, plotting.BLUE)):
        row = rows.where(kind="staircase", largest=largest)[0]
        ax.plot(row["w"], row["e"], color=color, label=label)
    ax.axhline(mean, color=plotting.VERMILION, lw=0.8, ls=":", label="mean of the bulk")
    for line in NORMAL_WEIGHTS:
        plotting.mark_claim(ax, line.weight, line.error, "B28, B30" if line.weight == 0.5 else "", offset=(6, 0))
    ax.set(xlabel="|weight|", ylabel="|error| (weight units)", ylim=(-0.02, 0.6))
    ax.legend(loc="upper right")


mean_error = value_of("mean_abs", kind="construction", values="exact", of="bulk")


def step_growth(rows: Rows) -> float:
    """The step with five of 512 weights at ±100 over the step without."""
    return with_over_without(rows.where(values="exact"), "step")


def two_numbers_right(rows: Rows) -> float:
    """Share of two stated numbers that are right: the step grows a hundredfold; int8 has 256 values."""
    return share([round(step_growth(rows)) == 100, len(levels(FORMATS["int8"])) == 256])


def share_of_table(rows: Rows, column: str) -> float:
    """Share of the five tabled weights of which a column is true."""
    return share(rows.where(kind="table").column(column))


def bulk_errs_more(rows: Rows) -> float:
    """Share of four cases (outliers exact or spread; |e| or |e| / |w|) in which the bulk errs more on average."""
    cases = []
    for classes in rows.where(kind="construction").groups("values").values():
        for column in ("mean_abs", "mean_of_ratios"):
            errs = classes.by("of", column)
            cases.append(errs["bulk"] > errs["outliers"])
    return share(cases)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "B24",
        statement="outlier 100 lifts scale .00787→.7874, ×100",
        definition="step with five of 512 weights at ±100 / step without",
        number=step_growth,
        rule=stated(100, 0.5),
        reading="the step is max |w| / 127 and grows as the outlier does",
    ),
    Claim(
        "B25",
        statement='resolution falls 100×; "256 values"',
        definition="share of two stated numbers, step growth 100 and 256 codes, that are right",
        number=two_numbers_right,
        rule=share_of_cases("the number is right"),
        reading="the step grows a hundredfold; symmetric int8 has 255 codes",
    ),
    Claim(
        "B27",
        statement="construction 99 % U[−1,1], 1 % ±100, 16×32",
        definition="share of the five tabled weights that the construction can hold",
        number=partial(share_of_table, column="possible"),
        rule=share_of_cases("the weight is within ±1 or at 100"),
        reading="it holds no 10; and 1 % of 512 is 5, or 0.98 %",
    ),
    Claim(
        "B28",
        statement="value table 0→0, .5→1→.787 (.287, 57.4 %), 1→.787 (.213), 10→13→10.236 (.236, 2.36 %), 100→127→100",
        definition="share of the five tabled weights with the stated code, value and error",
        number=partial(share_of_table, column="agrees"),
        rule=share_of_cases("all three agree to the last digit"),
        reading="it is int8's at a scale of 100/127",
    ),
    Claim(
        "B29",
        statement="BF16 column is exact",
        definition="share of the five tabled weights that are bf16 numbers",
        number=partial(share_of_table, column="is_bf16"),
        rule=share_of_cases("the weight is unchanged by rounding to bf16"),
        reading="these five are; random weights are not",
    ),
    Claim(
        "B30",
        statement="mean abs error .0043 → .287, 66×",
        definition="mean |e| of the bulk, outliers at ±100",
        number=mean_error,
        rule=stated(0.287, 0.0005),
        reading="measured {value:.4f}; 0.287 is the error of one weight, 0.5",
    ),
    Claim(
        "B32",
        statement="outlier gets zero error *because of clamp*",
        definition="share of the outliers (all without error) that the clamp changed",
        number=value_of("share_clipped", kind="construction", values="exact", of="outliers"),
        rule=share_of_cases("it did"),
        reading="the largest weight is the last code; none is clamped",
    ),
    Claim(
        "B33",
        statement="error inverts: bulk high, outliers low",
        definition="share of four cases (at ±100 or spread; absolute or relative) in which the bulk errs more "
        "on average",
        number=bulk_errs_more,
        rule=share_of_cases("it does"),
        reading="the largest weight has no error, and a bulk of three codes errs by about a quarter step",
    ),
    Claim(
        "B34",
        statement="outlier case all normals >.2, one row exact",
        definition="share of the bulk with |e| > 0.2",
        number=value_of("share_above", kind="construction", values="exact", of="bulk"),
        rule=stated(1.0, 0.005, limit=share(line.error > STATED_TYPICAL_ERROR for line in NORMAL_WEIGHTS)),
        reading="measured {value:.0%}; the document's own table has a normal weight without error",
    ),
    Claim(
        "B35a",
        statement="`quant_output = X @ W_int8`",
        definition="rms of X @ codes − X @ W over rms of X @ W, no outliers",
        number=value_of("unscaled_output_error", kind="construction", values="exact", of="clean"),
        rule=at_most(0.1),
        reading="the output is 127 times too large; with outliers at 100 only 1.27 times, so this code's MSE "
        "would fall",
    ),
)
