"""What `qat` and `qat_unet` share: their names, how these are drawn, and how QAT is judged."""

from typing import Any

from quantsim.lab import plotting
from quantsim.lab.claims import share
from quantsim.lab.plotting import Style
from quantsim.measure.ratios import Estimate
from quantsim.rows import Rows

BITS = {"int8:channel": 8, "int4:channel": 4, "int3:channel": 3}
ROUNDING, CLIP, GPTQ, QAT, FLOAT = "rounding", "clip", "gptq", "QAT", "no quantizer"
TRAINED, TUNED = "as it was", "after the control"

STYLES = {
    ROUNDING: Style(plotting.VERMILION, "s", "rounding"),
    CLIP: Style(plotting.ORANGE, "v", "clipping"),
    GPTQ: Style(plotting.BLUE, "o", "GPTQ"),
    QAT: Style(plotting.BLACK, "X", "QAT"),
}


def at_places(
    ax: plotting.Axes, rows: Rows, column: str, specs: list[str], *, shift: float, series: Style, **look: Any
) -> None:
    """A column with its interval, beside the places of the quantizers."""
    places = [specs.index(r["spec"]) + shift for r in rows]
    se = [r.get(f"{column}_se", 0.0) for r in rows]
    plotting.curve(ax, places, rows.column(column), se=se, series=series, linestyle="none", ms=3, **look)


def by_bits(ax: plotting.Axes, specs: list[str]) -> None:
    """Bits below their places."""
    ax.set_xticks(range(len(specs)), [f"{BITS[spec]} bits" for spec in specs])
    ax.set_xlim(-0.5, len(specs) - 0.5)


def qat_leads(rows: Rows) -> float:
    """Share of models × bits where every other remedy, also of the control, leaves a clearly larger loss than QAT."""
    cases = rows.where(kind="remedy").groups("model", "spec").values()
    return share(all(Estimate(r["over_qat"], r["over_qat_se"]).clearly_above(0.0) for r in group) for group in cases)
