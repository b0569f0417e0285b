"""The figure of `layers` on given weights: as many types and layers as a checkpoint has, and nothing of predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quantsim.lab import plotting
from quantsim.rows import Rows

from ._matrices import SHORT, STATED_SIGMAS

_MOST_WORDS = 24  # layers of a map that still have room for numbers
_MOST_WIDE = 10  # and types


def figure_of_given_weights(rows: Rows, spec: str) -> plotting.Figure:
    """Maps of type × depth, of the largest weights and of errors under a quantizer, and the largest weights by type."""
    if not rows:
        raise ValueError("no matrix of a layer could be measured: the rows say why of each")
    types = rows.values("type")
    deep = len(rows.values("layer"))
    heights = [1.4 + 0.15 * deep, 2.0]
    fig, axes = plotting.mosaic("ab;cc", height=min(9.0, sum(heights)), height_ratios=heights)
    words = deep <= _MOST_WORDS and len(types) <= _MOST_WIDE
    type_map(axes["a"], rows, "w_max", "max |w| / σ", words=words)
    percent = Rows(r | {"percent": 100 * r["rel_rms"]} for r in rows)
    type_map(axes["b"], percent, "percent", f"‖e‖ / ‖w‖ (%), {spec}", words=words)
    extremes(axes["c"], rows, types)
    plotting.letter([axes[name] for name in "abc"])
    return fig


def type_map(ax: plotting.Axes, rows: Rows, column: str, label: str, *, words: bool) -> None:
    """A column by type and depth, mean over experts."""
    cells = []
    for (layer, kind), group in rows.groups("layer", "type").items():
        value = float(group.column(column).mean())
        cells.append({"type": kind, "layer": layer, "value": value, "text": f"{value:.1f}"})
    grid, texts = (Rows(cells).grid(x="type", y="layer", value=name) for name in ("value", "text"))
    low, high = np.nanmin(grid.values), np.nanmax(grid.values)
    plotting.heat_map(ax, grid, texts=texts if words else None, white_above=low + 0.7 * (high - low))
    if len(grid.ys) > _MOST_WORDS:
        every = range(0, len(grid.ys), -(-len(grid.ys) // 12))
        ax.set_yticks(every, [str(grid.ys[k]) for k in every])
    _name_types(ax, grid.xs)
    ax.set(xlabel=label, ylabel="layer")


def extremes(ax: plotting.Axes, rows: Rows, types: Sequence[str]) -> None:
    """The largest weight of each matrix in σ, by type, beside the range that is stated of the type."""
    for place, kind in enumerate(types):
        if kind in STATED_SIGMAS:
            low, high = STATED_SIGMAS[kind]
            ax.fill_between([place - 0.35, place + 0.35], max(low, 1.0), high, color="0.85", lw=0)
        found = rows.where(type=kind).column("w_max")
        ax.plot(np.full(len(found), place), found, ls="none", marker=".", color=plotting.BLUE, ms=3)
    _name_types(ax, types)
    ax.set(yscale="log", ylabel="max |w| / σ (B48 … B55)")
    words = "grey: stated. KL and inputs need the model to run: left out"
    plotting.note(ax, 0.99, 0.95, words, transform=ax.transAxes, ha="right", va="top")


def _name_types(ax: plotting.Axes, types: Sequence[Any]) -> None:
    ax.set_xticks(range(len(types)), [SHORT.get(kind, kind) for kind in types])
    crowded = len(types) > _MOST_WIDE
    ax.tick_params(axis="x", labelsize=6.5, labelrotation=60 if crowded else 0)
