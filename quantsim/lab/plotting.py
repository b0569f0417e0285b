"""Figures: the only module that imports matplotlib. Byte-identical when drawn again from the same rows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantsim.rows import Rows

#: Okabe and Ito's palette, told apart by colour-blind readers; black last.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTHS = {"single": 3.25, "double": 6.75}
FORMATS = ("pdf", "svg", "png")
_STYLE = Path(__file__).with_name("style.mplstyle")
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


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


def curve(ax: Axes, x: Any, y: Any, *, se: Any = None, series: int = 0, label: str | None = None, **kw: Any) -> None:
    """Measured points with their 95 % interval, one colour and marker for each series."""
    color, marker = COLORS[series % len(COLORS)], MARKERS[series % len(MARKERS)]
    bars = None if se is None else 1.96 * np.nan_to_num(np.asarray(se, float))
    style = {"color": color, "marker": marker, "linestyle": "-", "label": label} | kw
    ax.errorbar(np.asarray(x), np.asarray(y), yerr=bars, capsize=1.5, **style)


def points(ax: Axes, rows: Rows, x: str, y: str, *, series: int = 0, label: str | None = None, **kw: Any) -> None:
    """Column ``y`` of measured rows against column ``x``, with the 95 % interval from ``<y>_se``; markers, no line."""
    style = {"linestyle": "none", "ms": 2.6} | kw
    curve(ax, rows.column(x), rows.column(y), se=rows.column(f"{y}_se"), series=series, label=label, **style)


def prediction(ax: Axes, x: Any, y: Any, *, series: int | None = None, label: str | None = None, **kw: Any) -> None:
    """What theory says: a thin dashed line, in the colour of the series that it predicts."""
    color = "0.25" if series is None else COLORS[series % len(COLORS)]
    ax.plot(np.asarray(x), np.asarray(y), **({"color": color, "linestyle": "--", "lw": 0.9, "label": label} | kw))


def mark_claim(ax: Axes, x: Any, y: Any, text: str, *, offset: tuple[Any, Any] = (6, 6), **kw: Any) -> None:
    """Mark where a stated number sits: a cross with the identifier of the statement, offset in points."""
    ax.plot([x], [y], marker="x", color="0.1", ms=5, mew=1.2, linestyle="none", zorder=5)
    ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=6.5, color="0.1", zorder=5, **kw)


def letter(axes: Iterable[Axes]) -> None:
    """Letters a, b, c … above the panels."""
    for ax, name in zip(axes, "abcdefghijklmnop", strict=False):
        ax.set_title(name, loc="left", fontweight="bold", fontsize=8)


def save(fig: Figure, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.pdf``, ``.svg`` and ``.png`` and close the figure."""
    paths = [folder / f"{stem}.{kind}" for kind in FORMATS]
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # solved once, not once a file
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
