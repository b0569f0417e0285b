"""The figure of an inspection: where outliers and errors sit, what bits buy, and the tensors that stand out most."""

from pathlib import Path
from typing import Any

import numpy as np

from quantsim import populations
from quantsim.inspection import Inspection
from quantsim.lab import outlier_cells, plotting
from quantsim.lab.plotting import Axes, Figure
from quantsim.rows import Rows, dumps, replace_text

STEM = "inspection"
_WORST = 3
_MOST_LABELLED = (12, 40)  # columns and rows of a map whose cells hold numbers
_MOST_ROLES = 24
_FEWEST = 1e-9  # of the weights in an octave: below it a density is not drawn
_NAME = 30


def write(found: Inspection, folder: Path) -> list[Path]:
    """Draw the figure and write its rows beside it; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{STEM}.jsonl"
    replace_text(rows, "".join(dumps(row) + "\n" for row in found.rows()))
    return [*plotting.save(draw(found), folder, STEM), rows]


def draw(found: Inspection) -> Figure:
    """Maps of crest factor and error by role and depth, the frontier, and histograms of the worst tensors."""
    fig, axes = plotting.mosaic("aaabbb;cccccc;ddeeff", height=8.2, height_ratios=[1.6, 1.1, 0.9])
    matrices = Rows(row for row in found.tensors if row["population"] is not None)
    depth_map(axes["a"], matrices, "crest", "crest factor, max |w| / σ")
    errors = Rows(row for row in found.errors.where(spec=found.reference) if "damage" in row)
    placed = _placed(errors, matrices)
    depth_map(axes["b"], placed, "percent", f"error of {found.reference}, % of rms")
    frontier(axes["c"], found)
    worst = sorted(matrices, key=outlier_cells.crest, reverse=True)[:_WORST]
    for name, row in zip("def", worst, strict=False):
        histogram(axes[name], row)
    for name in "def"[len(worst) :]:
        axes[name].set_axis_off()
    plotting.letter([axes[name] for name in "abcdef"[: 3 + len(worst)]])
    return fig


def _placed(errors: Rows, matrices: Rows) -> Rows:
    """Rows of errors with the role and the layer of their tensors."""
    where = {row["tensor"]: row for row in matrices}
    return Rows(
        {"role": where[e["tensor"]]["role"], "layer": where[e["tensor"]]["layer"], "percent": 100 * e["rel_rms"]}
        for e in errors
        if e["tensor"] in where
    )


# --- maps -----------------------------------------------------------------------------------------------------------


def depth_map(ax: Axes, rows: Rows, column: str, label: str) -> None:
    """The largest value of a column in each layer and role, input below; tensors outside layers in a row of their own.

    Colours are of the logarithm.
    """
    cells = []
    for (layer, role), group in rows.groups("layer", "role").items():
        value = float(np.nanmax(group.column(column)))
        cells.append({"role": role, "layer": layer, "value": np.log10(max(value, 1e-12)), "text": _three(value)})
    if not cells:
        ax.set_axis_off()
        return
    order = Rows(cells).values("role")[:_MOST_ROLES]
    ordered = Rows(sorted((c for c in cells if c["role"] in order), key=_input_first))
    named = Rows(c | {"layer": "outside" if c["layer"] is None else str(c["layer"])} for c in ordered)
    grid, texts = (named.grid(x="role", y="layer", value=name) for name in ("value", "text"))
    small = len(grid.xs) <= _MOST_LABELLED[0] and len(grid.ys) <= _MOST_LABELLED[1]
    low, high = np.nanmin(grid.values), np.nanmax(grid.values)
    shown = plotting.heat_map(ax, grid, texts=texts if small else None, white_above=low + 0.7 * (high - low))
    if not small:
        ax.figure.colorbar(shown, ax=ax, label=f"log10 {label}")
    ax.set_xticks(range(len(grid.xs)), [_short(x) for x in grid.xs], rotation=60, ha="right", fontsize=6)
    ax.tick_params(axis="y", labelsize=6)
    ax.set(ylabel="layer", xlabel=label)


def _input_first(cell: dict[str, Any]) -> tuple[bool, int]:
    return cell["layer"] is not None, cell["layer"] or 0


def _three(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0e}"


# --- frontier -------------------------------------------------------------------------------------------------------


def frontier(ax: Axes, found: Inspection) -> None:
    """Bits per weight and damage: each format alone, the best mixtures, and the one under the budget."""
    points = [p for p in found.frontier if p.damage > 0]
    bits, damages = ([getattr(p, name) for p in points] for name in ("bits", "damage"))
    ax.plot(bits, damages, color=plotting.BLUE, lw=1.2, label="best mixtures")
    _numbered(ax, found)
    if found.advice is not None and found.advice.allocation.damage > 0:
        at = found.advice.bits_per_weight, found.advice.allocation.damage
        ax.plot(*at, marker="*", ms=9, color=plotting.GREEN, ls="none", label=f"budget {found.advice.budget:g}")
    unit = "KL, nats per token" if found.unit == "nats" else "damage, sum of ‖e‖²/‖w‖²"
    ax.set(yscale="log", xlabel="bits per weight of the whole model", ylabel=unit)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=5, fontsize=plotting.NOTE)


def _numbered(ax: Axes, found: Inspection) -> None:
    """A point for each format, its number beside it and its name in the legend; where points coincide, all numbers."""
    shown = [u for u in found.uniform if u.damage > 0]
    places: dict[tuple[float, float], list[int]] = {}
    for number, choice in enumerate(shown, 1):
        at = (choice.bits_per_weight, choice.damage)
        ax.plot(*at, ls="none", marker="o", color=plotting.VERMILION, ms=3.5, label=f"{number}  {choice.spec}")
        places.setdefault(at, []).append(number)
    for place, (at, numbers) in enumerate(places.items()):
        text, offset = ",".join(map(str, numbers)), (4, 2) if place % 2 else (4, -7)
        ax.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=plotting.NOTE)


# --- histograms -----------------------------------------------------------------------------------------------------


def histogram(ax: Axes, row: dict[str, Any]) -> None:
    """Share of a tensor's weights in each octave of magnitude, in σ, beside the fitted population's."""
    edges, counts = np.array(row["magnitude_edges"]), np.array(row["magnitude_counts"], np.float64)
    shares, widths = counts / counts.sum(), np.diff(np.log2(np.maximum(edges, edges[1] / 2)))
    units = edges / row["sigma"]
    ax.stairs(np.where(counts > 0, shares / widths, np.nan), units, color=plotting.BLUE, label="weights")
    pop = populations.parse(row["population"])
    x = np.geomspace(units[1] / 2, units[-1], 200)
    density = 2 * np.asarray(pop.pdf(x * row["sigma"])) * x * row["sigma"] * np.log(2)
    ax.plot(x, np.where(density > _FEWEST, density, np.nan), color=plotting.VERMILION, lw=1, label=row["family"])
    ax.set(xscale="log", yscale="log", xlabel="|w| / σ", ylabel="share per octave")
    ax.set_xlim(1e-2, float(units[-1]) * 1.2)
    ax.set_ylim(0.3 / counts.sum(), 10)
    plotting.note(ax, 0.03, 0.05, _short(row["tensor"], _NAME), transform=ax.transAxes, va="bottom", ha="left")
    ax.legend(loc="upper left", fontsize=5.5, handlelength=1.0, borderaxespad=0.1)


def _short(name: str, longest: int = 16) -> str:
    """A name from a file as a figure can show it: no markup, no control characters, not too long."""
    text = "".join(c if c.isprintable() else "?" for c in name).replace("$", "\\$")
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-longest // 2 :]}"
