"""Figures: the only module that imports matplotlib. Byte-identical when drawn again from the same rows.

A ``Style`` is how one series looks, by its name and in all panels. The panels that most studies are made of: ``points``
over ``prediction`` (or both by ``measured``, for many series by ``family``), ``dots`` beside names, ``bars``, a
``heat_map`` of a grid of rows, an ``image`` of a matrix.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from quantsim.rows import Grid, Rows

#: Okabe and Ito's palette, told apart by colour-blind readers; black last.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTHS = {"single": 3.25, "double": 6.75}
FORMATS = ("pdf", "svg", "png")
NOTE = 6.5  # points, of what is written into a panel
_STYLE = Path(__file__).with_name("style.mplstyle")
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Style:
    """How a series looks wherever it is drawn: its colour, its marker, and its name in a legend."""

    color: str
    marker: str = "o"
    label: str | None = None


def styles(labels: Iterable[str] | Mapping[str, str]) -> dict[str, Style]:
    """A style for each name, in the order of the palette; a mapping gives names their labels.

    >>> styles({"int8:tensor": "one scale", "q8_0": "q8_0"})["q8_0"]
    Style(color='#D55E00', marker='s', label='q8_0')
    """
    named = labels if isinstance(labels, Mapping) else {name: name for name in labels}
    return {name: Style(COLORS[k % 8], MARKERS[k % 8], label) for k, (name, label) in enumerate(named.items())}


def _style(series: Style | int) -> Style:
    return series if isinstance(series, Style) else Style(COLORS[series % 8], MARKERS[series % 8])


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: Literal["single", "double"] = "double",
    height: float | int = 2.6,
    **kw: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of one or two column widths with a grid of axes, always a 2-d array; ``height`` in inches."""
    plt.style.use(["default", _STYLE])
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTHS[width], height), squeeze=False, layout="constrained", **kw)
    return fig, axes


def mosaic(
    layout: str, *, width: Literal["single", "double"] = "double", height: float | int = 2.6, **kw: Any
) -> tuple[Figure, dict[str, Axes]]:
    """A figure whose panels span cells, a letter a panel, rows parted by ``;``, for example "aab;aac"."""
    plt.style.use(["default", _STYLE])
    return plt.subplot_mosaic(layout, figsize=(WIDTHS[width], height), layout="constrained", **kw)


def curve(
    ax: Axes, x: Any, y: Any, *, se: Any = None, series: Style | int = 0, label: str | None = None, **kw: Any
) -> None:
    """Measured points with their 95 % interval, joined by a line; ``series`` is a style, or a place in the palette."""
    style = _style(series)
    look: dict[str, Any] = {
        "color": style.color,
        "marker": style.marker,
        "linestyle": "-",
        "label": label or style.label,
    } | kw
    ax.errorbar(np.asarray(x), np.asarray(y), yerr=_interval(se), capsize=1.5, **look)


def _interval(se: Any) -> np.ndarray | None:
    return None if se is None else 1.96 * np.nan_to_num(np.asarray(se, float))


def points(
    ax: Axes, rows: Rows, x: str, y: str, *, series: Style | int = 0, label: str | None = None, **kw: Any
) -> None:
    """Column ``y`` of measured rows against column ``x``, with the 95 % interval from ``<y>_se``; markers, no line."""
    look: dict[str, Any] = {"linestyle": "none", "ms": 2.6} | kw
    curve(ax, rows.column(x), rows.column(y), se=rows.column(f"{y}_se"), series=series, label=label, **look)


def prediction(
    ax: Axes, x: Any, y: Any, *, series: Style | int | None = None, label: str | None = None, **kw: Any
) -> None:
    """What theory says: a thin dashed line, in the colour of the series that it predicts."""
    color = "0.25" if series is None else _style(series).color
    look: dict[str, Any] = {"color": color, "linestyle": "--", "lw": 0.9, "label": label} | kw
    ax.plot(np.asarray(x), np.asarray(y), **look)


def measured(ax: Axes, rows: Rows, x: str, y: str, *, series: Style | int = 0, **kw: Any) -> None:
    """``points`` of column ``y`` over the ``prediction`` of column ``predicted_<y>``, where it has numbers."""
    points(ax, rows, x, y, series=series, **kw)
    prediction(ax, rows.column(x), rows.column(f"predicted_{y}").astype(float), series=series)


def family(ax: Axes, rows: Rows, x: str, y: str, *, by: str, styles: Mapping[str, Style]) -> None:
    """``measured`` for each name that column ``by`` holds, in the style of that name."""
    for name, style in styles.items():
        if found := rows.where(**{by: name}):
            measured(ax, found, x, y, series=style)


def dots(ax: Axes, rows: Rows, x: str, at: Any, *, series: Style | int = 0, **kw: Any) -> None:
    """Column ``x`` of each row beside its place ``at`` on the vertical axis; a bar for ``predicted_<x>``."""
    style, values = _style(series), rows.column(x)
    look: dict[str, Any] = {
        "color": style.color,
        "marker": style.marker,
        "linestyle": "none",
        "label": style.label,
    } | kw
    ax.errorbar(values, np.asarray(at), xerr=_interval(rows.column(f"{x}_se")), capsize=1.5, **look)
    predicted = rows.column(f"predicted_{x}").astype(float)
    prediction(ax, predicted, at, series=series, linestyle="none", marker="|", ms=8)


def bars(
    ax: Axes, labels: Sequence[str], values: Any, *, colors: Any = BLUE, texts: Sequence[str] = (), **kw: Any
) -> None:
    """A horizontal bar for each label, the first one at the top, with a text at its end."""
    places = range(len(labels))
    look: dict[str, Any] = {"color": colors, "height": 0.75, "lw": 0} | kw
    ax.barh(places, np.asarray(values, float), **look)
    for place, value, text in zip(places, values, texts, strict=False):
        note(ax, value, place, f" {text}", va="center")
    ax.set(yticks=places, yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
    ax.grid(visible=False, axis="y")


def heat_map(ax: Axes, grid: Grid, *, texts: Grid | None = None, white_above: float = np.inf, **kw: Any) -> AxesImage:
    """A grid of rows, ``ys`` upward: a colour for each cell and a text on it, white where the value is so large."""
    look: dict[str, Any] = {"cmap": "OrRd", "aspect": "auto", "origin": "lower"} | kw
    shown = ax.imshow(grid.values, **look)
    for (k, j), value in np.ndenumerate(grid.values):
        if texts is not None:
            color = "w" if value > white_above else "0.1"
            note(ax, j, k, str(texts.values[k, j]), ha="center", va="center", fontsize=6, color=color)
    ax.set_xticks(range(len(grid.xs)), [_tick(v) for v in grid.xs])
    ax.set_yticks(range(len(grid.ys)), [_tick(v) for v in grid.ys])
    ax.grid(visible=False)
    return shown


def _tick(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def image(ax: Axes, values: Any, label: str = "", **kw: Any) -> AxesImage:
    """A matrix as a picture, a cell for each element, with its label below."""
    look: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"} | kw
    shown = ax.imshow(np.asarray(values), **look)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(label, fontsize=NOTE)
    ax.grid(visible=False)
    return shown


def note(ax: Axes, x: Any, y: Any, text: str, **kw: Any) -> None:
    """Small words in a panel."""
    look: dict[str, Any] = {"fontsize": NOTE} | kw
    ax.text(x, y, text, **look)


def mark_claim(ax: Axes, x: Any, y: Any, text: str, *, offset: tuple[Any, Any] = (6, 6), **kw: Any) -> None:
    """Mark where a stated number sits: a cross with the identifier of the statement, offset in points."""
    ax.plot([x], [y], marker="x", color="0.1", ms=5, mew=1.2, linestyle="none", zorder=5)
    ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=NOTE, color="0.1", zorder=5, **kw)


def letter(axes: Iterable[Axes]) -> None:
    """Letters a, b, c … above the panels."""
    for ax, name in zip(axes, "abcdefghijklmnop", strict=False):
        ax.set_title(name, loc="left", fontweight="bold", fontsize=8)


def save(fig: Figure, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.pdf``, ``.svg`` and ``.png`` and close the figure."""
    paths = [folder / f"{stem}.{kind}" for kind in FORMATS]
    fig.draw_without_rendering()
    # solved; the placeholder that set_layout_engine("none") leaves would have every file drawn twice
    fig._layout_engine = None  # pyright: ignore[reportAttributeAccessIssue]
    with mpl.rc_context({"svg.hashsalt": "quantsim"}):
        for path in paths:
            temporary = path.with_suffix(".tmp")
            try:
                fig.savefig(temporary, format=path.suffix[1:], metadata=_METADATA[path.suffix[1:]])
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    plt.close(fig)
    return paths
