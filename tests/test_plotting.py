"""Figures: the same bytes from the same rows, intervals of 95 %, sizes of a page."""

import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

from quantsim.lab import plotting
from quantsim.rows import Grid, Rows

KINDS = ("pdf", "svg", "png")


def drawn(**kw):
    """A figure with everything that the module draws."""
    x = np.geomspace(1, 100, 5)
    fig, axes = plotting.figure(1, 2, **kw)
    for series in range(3):
        plotting.curve(axes[0, 0], x, x * (series + 1), se=x / 9, series=series, label=f"ŵ {series}")
    plotting.prediction(axes[0, 0], x, 1.5 * x, series=1, label="theory")
    plotting.mark_claim(axes[0, 0], 10.0, 20.0, "B14")
    axes[0, 0].set(xscale="log", yscale="log", xlabel="fan-in", ylabel="‖e‖/‖w‖")
    axes[0, 0].legend()
    axes[0, 1].imshow(np.arange(12).reshape(3, 4), cmap="RdBu")
    plotting.letter(axes.ravel())
    return fig


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    assert plotting.save(drawn(), folder, "one") == [folder / f"one.{kind}" for kind in KINDS]
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"one.{kind}" for kind in KINDS)
    return folder


def test_a_figure_drawn_again_has_the_same_bytes(saved, tmp_path):
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 5, "savefig.dpi": 20, "axes.grid": True}):
        plotting.save(drawn(), tmp_path, "one")  # whatever was set before
    for kind in KINDS:
        assert (tmp_path / f"one.{kind}").read_bytes() == (saved / f"one.{kind}").read_bytes()


def test_another_figure_has_other_bytes(saved, tmp_path):
    plotting.save(drawn(height=2.0), tmp_path, "one")
    for kind in KINDS:
        assert (tmp_path / f"one.{kind}").read_bytes() != (saved / f"one.{kind}").read_bytes()


def test_files_hold_no_date_and_no_program(saved):
    for kind in KINDS:
        data = (saved / f"one.{kind}").read_bytes()
        assert not re.search(rb"CreationDate|ModDate|dc:date|Software|20\d\d-\d\d-\d\d", data)


def test_files_are_what_their_names_say(saved):
    starts = {"pdf": b"%PDF-", "svg": b"<?xml", "png": b"\x89PNG\r\n"}
    for kind, start in starts.items():
        assert (saved / f"one.{kind}").read_bytes().startswith(start)


def test_no_figure_stays_open(saved):
    assert plotting.plt.get_fignums() == []


def test_a_figure_that_fails_leaves_the_old_one(saved, tmp_path, monkeypatch):
    (tmp_path / "one.pdf").write_bytes(b"old")
    fig = drawn()

    def fail(path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fig, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        plotting.save(fig, tmp_path, "one")
    plotting.plt.close(fig)
    assert (tmp_path / "one.pdf").read_bytes() == b"old"


@pytest.mark.parametrize(("width", "inches"), [("single", 3.25), ("double", 6.75)])
def test_a_figure_is_as_wide_as_a_column_or_a_page(width, inches):
    fig, axes = plotting.figure(2, 3, width=width, height=4.0)
    assert fig.get_size_inches().tolist() == [inches, 4.0]
    assert axes.shape == (2, 3)
    plotting.plt.close(fig)
    fig, panels = plotting.mosaic("ab\ncc", width=width)
    assert fig.get_size_inches()[0] == inches
    assert set(panels) == {"a", "b", "c"}
    plotting.plt.close(fig)


@pytest.fixture
def ax():
    fig, axes = plotting.figure(width="single")
    yield axes[0, 0]
    plotting.plt.close(fig)


def intervals(ax):
    """Lower and upper end of each error bar."""
    (bars,) = ax.containers[0][2]
    return np.array([segment[:, 1] for segment in bars.get_segments()])


def test_bars_are_95_percent_intervals(ax):
    y, se = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.0, np.nan])
    plotting.curve(ax, [1, 2, 3], y, se=se)
    half = np.array([0.196, 0.0, 0.0])
    np.testing.assert_allclose(intervals(ax), np.stack([y - half, y + half], axis=1))


def test_a_number_without_error_has_no_bar(ax):
    plotting.curve(ax, [1, 2], [1.0, 2.0])
    assert not ax.containers[0].has_yerr


def test_series_differ_in_colour_and_marker(ax):
    for series in range(len(plotting.COLORS)):
        plotting.curve(ax, [1], [1], series=series)
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len({c for c, _ in looks}) == len({m for _, m in looks}) == len(plotting.COLORS) == 8


def test_more_series_than_colours_start_again(ax):
    plotting.curve(ax, [1], [1], series=8)
    assert ax.lines[0].get_color() == plotting.COLORS[0]


def test_colours_are_those_that_okabe_and_ito_published():
    """Color Universal Design, 2008: blue, vermilion, bluish green, reddish purple, orange, sky blue, yellow, black."""
    published = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 0, 0)]  # fmt: skip  # noqa: E501
    assert [c.lower() for c in plotting.COLORS] == [to_hex(np.array(c) / 255) for c in published]


def test_theory_is_dashed_and_has_the_colour_of_what_it_predicts(ax):
    plotting.curve(ax, [1], [1], series=2)
    plotting.prediction(ax, [1, 2], [1, 2], series=2, label="theory")
    plotting.prediction(ax, [1, 2], [1, 2])
    *_, of_series, alone = ax.lines
    assert of_series.get_color() == plotting.COLORS[2]
    assert alone.get_color() == "0.25"
    assert of_series.get_linestyle() == alone.get_linestyle() == "--"
    assert of_series.get_marker() in ("None", "", None)


def test_a_claim_is_marked_where_it_sits(ax):
    plotting.mark_claim(ax, 3.0, 4.0, "B14", offset=(1, 2))
    assert ax.lines[0].get_xydata().tolist() == [[3.0, 4.0]]
    (text,) = ax.texts
    assert (text.get_text(), text.xy, text.get_position()) == ("B14", (3.0, 4.0), (1, 2))


def test_a_style_belongs_to_a_name_and_not_to_a_place(ax):
    styles = plotting.styles({"q8_0": "block", "int8": "one scale"})
    for name in ("int8", "q8_0"):
        plotting.curve(ax, [1], [1], series=styles[name])
    one_scale, block = ax.lines
    assert (block.get_color(), block.get_marker()) == (plotting.COLORS[0], plotting.MARKERS[0])
    assert (one_scale.get_color(), one_scale.get_marker()) == (plotting.COLORS[1], plotting.MARKERS[1])
    assert [c.get_label() for c in ax.containers] == ["one scale", "block"]


ROWS = Rows(
    {"name": name, "x": float(x), "y": 2.0 * x, "y_se": 0.1, "predicted_y": 2.0 * x + 1 if name == "a" else None}
    for name in ("a", "b")
    for x in (1, 2, 3)
)


def test_a_family_is_drawn_by_name_with_its_predictions(ax):
    styles = plotting.styles(["b", "a", "absent"])
    plotting.family(ax, ROWS, "x", "y", by="name", styles=styles)
    no_theory, theory = (line for line in ax.lines if line.get_linestyle() == "--")
    b, a = (c.lines[0] for c in ax.containers)
    assert a.get_color() == theory.get_color() == styles["a"].color
    assert b.get_color() == no_theory.get_color() == styles["b"].color
    assert theory.get_ydata().tolist() == [3.0, 5.0, 7.0]
    assert np.isnan(no_theory.get_ydata()).all()
    assert [c.get_label() for c in ax.containers] == ["b", "a"]


def test_dots_have_their_interval_along_the_axis_and_a_bar_where_theory_says(ax):
    plotting.dots(ax, ROWS.where(name="a"), "y", [5, 6, 7], series=2)
    (bars,) = ax.containers[0][2]
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [[2 - 0.196, 2 + 0.196], [4 - 0.196, 4 + 0.196], [6 - 0.196, 6 + 0.196]])
    predicted = ax.lines[-1]
    assert (predicted.get_marker(), predicted.get_xydata().tolist()) == ("|", [[3, 5], [5, 6], [7, 7]])


def test_bars_start_at_the_top_in_the_order_of_their_labels(ax):
    plotting.bars(ax, ["x", "y"], [1.0, 2.0], texts=["one", "two"])
    assert [(p.get_width(), p.get_y() + p.get_height() / 2) for p in ax.patches] == [(1.0, 0.0), (2.0, 1.0)]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [(" one", (1.0, 0)), (" two", (2.0, 1))]


def test_a_heat_map_has_a_text_a_cell_and_names_its_axes(ax):
    grid = Grid([0.01, 0.1, 1.0], ["low", "high"], np.arange(6.0).reshape(2, 3))
    texts = Grid(grid.xs, grid.ys, np.array([["a", "b", "c"], ["d", "e", "f"]]))
    shown = plotting.heat_map(ax, grid, texts=texts, white_above=3.0)
    assert shown.get_array().tolist() == grid.values.tolist()
    assert {t.get_text(): t.get_position() for t in ax.texts} == {
        "a": (0, 0), "b": (1, 0), "c": (2, 0), "d": (0, 1), "e": (1, 1), "f": (2, 1),
    }  # fmt: skip
    assert [t.get_text() for t in ax.texts if t.get_color() == "w"] == ["e", "f"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["low", "high"]
    assert ax.get_ylim()[0] < ax.get_ylim()[1], "larger values of y lie above"


def test_an_image_has_a_label_and_no_ticks(ax):
    plotting.image(ax, np.eye(3), "one matrix", vmin=-1, vmax=1)
    assert ax.images[0].get_clim() == (-1, 1)
    assert (ax.get_xlabel(), list(ax.get_xticks())) == ("one matrix", [])


def test_panels_have_letters():
    fig, axes = plotting.figure(2, 2)
    plotting.letter(axes.ravel())
    assert [a.get_title(loc="left") for a in axes.ravel()] == ["a", "b", "c", "d"]
    plotting.plt.close(fig)
