"""Errors by magnitude class and histograms of magnitudes, against NumPy."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from quantsim.measure import classes, histogram
from tests.test_statistics import SCALES, TILE_ROUNDING, pair

EDGES, FROM_A_TENTH = (0.0, 0.1, 0.5, 2.0, 1e9), (0.1, 0.2, 0.5, 2.0, 1e9)


@pytest.mark.parametrize("shape", [(4096,), (9000,), (0,)], ids=str)
@pytest.mark.parametrize("edges", [EDGES, FROM_A_TENTH], ids=["from 0", "from 0.1"])
def test_class_stats_equal_numpy(shape, edges):
    w, w_hat = pair(shape)
    w[: w.size // 100], w_hat[: w.size // 100] = 0.0, 0.25
    c = classes.class_stats(w, w_hat, edges)
    e, size = np.abs(w_hat - w).astype(np.float64), np.abs(w)
    for k, (low, high) in enumerate(zip(np.float32(edges[:-1]), np.float32(edges[1:]), strict=True)):
        inside, nonzero = (size >= low) & (size < high), (size >= low) & (size < high) & (w != 0)
        rel = math.sqrt((e[inside] ** 2).sum() / max((w[inside].astype(np.float64) ** 2).sum(), 1e-30))
        assert c.count[k] == inside.sum()
        assert c.max_abs[k] == e[inside].max(initial=0.0)
        assert c.mean_abs[k] == pytest.approx(e[inside].sum() / max(inside.sum(), 1), rel=TILE_ROUNDING)
        assert c.rel_rms[k] == pytest.approx(rel, rel=TILE_ROUNDING)
        relative = (e[nonzero] / size[nonzero]).sum() / max(nonzero.sum(), 1)
        assert c.mean_relative[k] == pytest.approx(relative, rel=TILE_ROUNDING)


def test_class_stats_merge():
    w, w_hat = pair((9000,))
    whole = classes.class_stats(w, w_hat, EDGES)
    head, tail = (classes.class_stats(w[part], w_hat[part], EDGES) for part in (slice(4096), slice(4096, None)))
    merged = classes.merge_classes(head, tail)
    for f in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(merged, f.name), getattr(whole, f.name))
    with pytest.raises(ValueError, match="same class edges"):
        classes.merge_classes(whole, classes.class_stats(w, w_hat, FROM_A_TENTH))


@pytest.mark.parametrize("scale", SCALES[1:])
def test_class_stats_do_not_depend_on_the_scale(scale):
    """Each class has units of its own: here the first spans small weights only, and squares of both leave float32."""
    w, w_hat = (v * np.float32(scale) for v in pair((9000,)))
    w[::2], w_hat[::2] = w[::2] / 2**30, w_hat[::2] / 2**30
    edges = tuple(float(np.float32(e * scale)) for e in (0, 1e-6, 0.5, 2, 8))
    c, e = classes.class_stats(w, w_hat, edges), (w_hat - w).astype(np.float64)
    for k, (low, high) in enumerate(itertools.pairwise(np.float32(edges))):
        inside = (np.abs(w) >= low) & (np.abs(w) < high)
        squares, signal = (e[inside] ** 2).sum(), (w[inside].astype(np.float64) ** 2).sum()
        assert inside.sum() == c.count[k] > 0
        assert c.rel_rms[k] == pytest.approx(math.sqrt(squares / signal), rel=TILE_ROUNDING)
        assert c.e2[k] == pytest.approx(squares, rel=TILE_ROUNDING)
        assert c.mean_abs[k] == pytest.approx(np.abs(e[inside]).mean(), rel=TILE_ROUNDING)


def test_a_nan_is_in_its_class_only():
    w, w_hat = pair((9000,))
    w[3], w_hat[3] = 0.3, np.nan
    c, clean = classes.class_stats(w, w_hat, EDGES), classes.class_stats(*pair((9000,)), EDGES)
    assert np.isnan([c.e2, c.max_abs])[:, 1].all()
    np.testing.assert_array_equal(c.max_abs[2:], clean.max_abs[2:])
    assert np.isfinite([c.e2, c.abs_e, c.max_abs])[:, [0, 2, 3]].all()


# --- histograms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_histogram_quantiles_are_at_most_3_percent_too_large(p):
    x, _ = pair((10_002,))
    exact = np.quantile(np.abs(x), p, method="inverted_cdf")
    parts = [histogram.histogram(part) for part in np.array_split(x, 3)]
    assert exact <= histogram.histogram_quantile(sum(parts), p) <= exact * (1 + 1 / 32)


def test_histograms_count_every_magnitude_once():
    edges = histogram.histogram_edges()
    finite = edges[np.isfinite(edges)]
    x = np.concatenate([finite, -np.nextafter(finite[1:], np.float32(0))])
    counts = np.asarray(histogram.histogram(x))
    assert counts.sum() == x.size
    expected = np.histogram(np.abs(x).astype(np.float64), np.append(finite, np.inf).astype(np.float64))[0]
    np.testing.assert_array_equal(counts[: finite.size], expected)  # np.histogram refuses edges that do not increase
