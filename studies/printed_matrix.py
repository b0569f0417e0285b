"""Can what the document prints and draws of its 16×32 matrix be true?

Method. Whatever the printed table, map and link say is held against the matrix that the document's own seed gives, and
against itself: a code follows from a weight and the scale, a bf16 number is unchanged by rounding to bf16.
Expected. The code that the document prints makes the matrix that it shows.
Refuted if one of the nine printed weights is not at its place.

Settles B01, B04, B05, B06, B07, B08 and B23 of the ledger, which numbers the statements of two documents (``quantsim
claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import urlparse

import jax.numpy as jnp
import numpy as np

from quantsim.formats import Float, largest
from quantsim.formats import parse as parse_format
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, Verdict, at_most, no_statement, share_of_cases, stated, value_of
from quantsim.lab.matrix import LEGEND, document_matrix
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.quantizer import parse
from quantsim.rows import Rows

INT8, BF16 = parse("int8:tensor"), parse("bf16")


class Printed(NamedTuple):
    """A line of the document's table: where, the weight, its code, the dequantized weight, the error."""

    row: int
    column: int
    weight: float
    code: int
    dequantized: float
    error: float


TABLE = (
    Printed(0, 0, 0.812, 82, 0.806, 0.006),
    Printed(0, 1, -0.742, -75, -0.738, 0.004),
    Printed(0, 2, 0.391, 39, 0.383, 0.008),
    Printed(1, 0, -0.928, -94, -0.922, 0.006),
    Printed(1, 1, 0.162, 16, 0.157, 0.005),
    Printed(1, 2, -0.504, -51, -0.500, 0.004),
    Printed(2, 0, 0.674, 68, 0.669, 0.005),
    Printed(2, 1, -0.319, -32, -0.314, 0.005),
    Printed(2, 2, 0.957, 97, 0.956, 0.001),
)
SCALE, LINK = 0.00983, "https://example.com/matrix_data.csv"
SHAPE, DRAWN_DARK = (16, 32), ((0, 4), (1, 1))  # the only cells that its heat map draws above 0.003
LAST_DIGIT = 6e-4  # three decimals are given


@dataclass(frozen=True)
class Config:
    """The document's seed."""

    seed: int = 42
    rows: int = len(TABLE)  # of the table that are checked

    @classmethod
    def small(cls) -> "Config":
        """Part of the table."""
        return cls(rows=3)


def measure(config: Config) -> Iterator[Cell]:
    """The table line by line, and what else is printed."""
    table = TABLE[: config.rows]
    yield "table", partial(lines, table, config.seed)
    yield "document", lambda: [document(table, config.seed)]


def lines(table: tuple[Printed, ...], seed: int) -> list[dict]:
    """Each printed line, and the weight that the seed gives at its place."""
    w = document_matrix(seed)
    return [{"kind": "line"} | line._asdict() | {"at_seed": float(w[line.row, line.column])} for line in table]


def document(table: tuple[Printed, ...], seed: int) -> dict:
    """What is true of the table, of bf16, of the map, and of the link."""
    w, bf16 = document_matrix(seed), parse_format("bf16")
    assert isinstance(bf16, Float)
    numbers = np.array([[line.weight, line.dequantized] for line in table])
    rounds_to = np.asarray(BF16.roundtrip(numbers))
    return {
        "kind": "document",
        "rows": len(table),
        "at_seed": np.mean([round(float(w[line.row, line.column]), 3) == line.weight for line in table]),
        "follows_scale": np.mean([follows_scale(line) for line in table]),
        "bf16": (np.abs(rounds_to - numbers) <= 5.001e-4).mean(),
        "drawn_light": 1 - len(DRAWN_DARK) / np.prod(SHAPE),
        "reserved_link": float((urlparse(LINK).hostname or "").endswith("example.com")),
        "mantissa_bits": bf16.mantissa_bits,
        "exponent_bits": bf16.exponent_bits,
        "largest": largest(bf16),
        "e": error(jnp.asarray(w), INT8.roundtrip(w)),
    }


def follows_scale(line: Printed) -> bool:
    """Whether code, dequantized weight and error follow from the weight and the printed scale, to the last digit."""
    return (
        round(line.weight / SCALE) == line.code
        and abs(line.code * SCALE - line.dequantized) < LAST_DIGIT
        and abs(abs(line.weight - line.dequantized) - line.error) < LAST_DIGIT
    )


def draw(rows: Rows) -> plotting.Figure:
    """The map of errors, computed and as the document drew it; its printed weights against those of its own seed."""
    fig, axes = plotting.mosaic("aac;bbc", height=2.6)
    e = np.abs(rows.where(kind="document")[0]["e"])
    drawn = np.zeros(SHAPE)
    drawn[tuple(np.array(DRAWN_DARK).T)] = 1
    classes = np.digitize(e, [high for high, _ in LEGEND[:-1]])
    shades = {"cmap": "Greys", "vmin": -0.3, "vmax": 3}
    plotting.image(axes["a"], classes, "|error| class: ≤ .003 light, ≤ .006 dark", **shades)
    plotting.image(axes["b"], drawn, "what the document drew (B08)", **shades)
    printed_weights(axes["c"], rows.where(kind="line"))
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def printed_weights(ax: plotting.Axes, rows: Rows) -> None:
    """A point for each printed weight: were it in the matrix, it would lie on the line."""
    plotting.prediction(ax, [-1, 1], [-1, 1], label="the same")
    ax.plot(rows.column("at_seed"), rows.column("weight"), "x", color="0.1", ms=4, label="B04")
    ax.set(xlabel="weight of seed 42", ylabel="weight as printed", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    ax.legend(loc="lower center")


def map_shows_its_legend() -> Rule:
    """For the share of light cells of a map whose own legend says 35 %."""

    def decide(value: float, _se: float) -> Verdict:
        return "holds" if abs(value - LEGEND[0][1]) <= 0.005 else "self-contradiction"

    return Rule("contradicts itself unless the map shows the 35 % of its legend", decide)


def no_number(rows: Rows) -> float:
    """Advice has none."""
    del rows
    return float("nan")


of_document = partial(value_of, kind="document")
# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "B01",
        statement="BF16 = 1+8+7 bits, large range, low precision",
        definition="mantissa bits of bf16",
        number=of_document("mantissa_bits"),
        rule=stated(7, 0),
        reading="16 bits with 8 of exponent",
    ),
    Claim(
        "B04",
        statement="the 9 example rows",
        definition="share of the nine weights that the seed-42 matrix has at their place",
        number=of_document("at_seed"),
        rule=share_of_cases("the weight agrees to three decimals"),
        reading="none of the nine printed weights is in the matrix",
    ),
    Claim(
        "B05",
        statement="columns are BF16 numbers",
        definition="share of the 18 printed weights that are bf16 numbers",
        number=of_document("bf16"),
        rule=share_of_cases("a bf16 number rounds to it at three decimals"),
        reading="{value:.0%} of the printed weights can be",
    ),
    Claim(
        "B06",
        statement='"first 4×4 sub-matrix"',
        definition="entries listed",
        number=of_document("rows"),
        rule=stated(16, 0),
        reading="a 3×3 corner is listed as a 4×4 one",
    ),
    Claim(
        "B07",
        statement="full data at a download link",
        definition="1 if the link's host is reserved for documentation (RFC 2606)",
        number=of_document("reserved_link"),
        rule=at_most(0),
        reading="the link cannot lead to data",
    ),
    Claim(
        "B08",
        statement="heat map drawing",
        definition="share of cells drawn as ≤ 0.003",
        number=of_document("drawn_light"),
        rule=map_shows_its_legend(),
        reading="the map shows {value:.1%} light cells, its own legend says 35 %",
    ),
    Claim(
        "B23",
        statement="recommend imshow / TensorBoard histograms",
        definition="none",
        number=no_number,
        rule=no_statement("advice on plotting"),
        reading="followed in this figure",
    ),
)
