"""What `layers` and `real_layers` say of the matrices of a model: how far weights stand out, where; what is stated."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quantsim._types import ArrayLike
from quantsim.lab import plotting
from quantsim.rows import Rows

#: Matrices of a layer, as GGUF names them, and in a word.
TYPES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
SHORT = dict(zip(TYPES, ("q", "k", "v", "o", "gate", "up", "down"), strict=True))

#: The documents' ranking of outliers, from most to fewest; ties share a place.
STATED_RANK = {
    "attn_q": 1,
    "attn_k": 1,
    "ffn_up": 2,
    "attn_v": 3,
    "ffn_gate": 4,
    "attn_output": 5,
    "ffn_down": 5,
}
RANKED = 0.8  # rank correlation from which rankings agree
#: Ranges of max |w| / σ that they give.
STATED_SIGMAS = {
    "attn_q": (20.0, 100.0),
    "attn_k": (20.0, 100.0),
    "attn_v": (5.0, 10.0),
    "attn_output": (2.0, 5.0),
    "ffn_up": (10.0, 50.0),
    "ffn_gate": (3.0, 10.0),
    "ffn_down": (0.0, 2.0),
}
LAST_THIRD, STATED_LAST_THIRD = 1 / 3, 0.68


def spread(of: str, values: ArrayLike) -> dict[str, float]:
    """max |v| / σ, kurtosis E[v⁴] / E[v²]², and shares beyond 3σ and 10σ, σ the rms."""
    a = np.asarray(values, np.float64)
    units = np.abs(a) / np.sqrt(np.mean(a * a))
    return {
        f"{of}_max": float(units.max()),
        f"{of}_kurtosis": float(np.mean(units**4)),
        f"{of}_beyond_3": float(np.mean(units > 3)),
        f"{of}_beyond_10": float(np.mean(units > 10)),
    }


def depth_map(ax: plotting.Axes, rows: Rows, column: str, label: str, *, log: bool = False) -> None:
    """A column by type and depth, mean over the trainings."""
    cells = []
    for (layer, kind), group in rows.groups("layer", "type").items():
        value = float(group.column(column).mean())
        value = float(np.log10(value)) if log else value
        cells.append({"type": SHORT[kind], "layer": layer, "value": value, "text": f"{value:.1f}"})
    grid, texts = (Rows(cells).grid(x="type", y="layer", value=name) for name in ("value", "text"))
    low, high = grid.values.min(), grid.values.max()
    plotting.heat_map(ax, grid, texts=texts, white_above=low + 0.7 * (high - low))
    ax.tick_params(axis="x", labelsize=6.5)
    ax.set(xlabel=label, ylabel="layer")


def per_layer(rows: Rows, column: str) -> NDArray[np.float64]:
    """Sum of a column over the matrices of each layer."""
    return np.array([group.column(column).sum() for group in rows.groups("layer").values()])


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's."""
    found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


def part_from(by_layer: NDArray[np.float64], part: float) -> float:
    """Share of a sum over layers that the last part of them holds, a layer counting as far as it lies in it.

    0 where all are 0, NaN without a layer.
    """
    n = len(by_layer)
    if n == 0:
        return float("nan")
    inside = np.clip(np.arange(1, n + 1) - n * (1 - part), 0, 1)
    return float((by_layer * inside).sum() / by_layer.sum()) if by_layer.sum() else 0.0
