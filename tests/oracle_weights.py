"""Mean squared errors of small blocks in float64 NumPy, from the definitions of quantizers; never imports quantsim.

A quantizer is a function of blocks (…, n) that gives their weights and codes. Three ways to average its error share
no idea with quantsim.theory: all blocks of a population of few values; pairs of weights over their angle, where the
scale has no unit; pairs over their larger and their smaller magnitude, where it is stored.
"""

from itertools import product

import numpy as np
from scipy import stats

from tests.oracles import float_codes

DENSITIES = {
    "normal": stats.norm().pdf,
    "laplace": stats.laplace(scale=0.5**0.5).pdf,
    "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5).pdf,
}
E2M1 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
#: Exponent bits, mantissa bits and specials of the formats of scales.
F16, BF16, E4M3, E5M0 = (5, 10, "ieee"), (8, 7, "ieee"), (4, 3, "fn"), (5, 0, "finite")
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)


def integers(bits, lowest=True):
    """Levels of integers, with -2^(b-1) or without."""
    return np.arange(-(2 ** (bits - 1)) + (not lowest), 2 ** (bits - 1))


def nearest(units, levels):
    """Index of the nearest level."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, units)


def toward_zero(units, levels):
    """Index of the next level on the side of zero."""
    below, above = np.searchsorted(levels, units, side="right") - 1, np.searchsorted(levels, units)
    return np.clip(np.where(units >= 0, below, above), 0, len(levels) - 1)


def stored_in(facts):
    """What stores a magnitude in a small float."""
    table = float_codes(*facts)
    table = table[np.isfinite(table)]
    return lambda scale: np.sign(scale) * table[nearest(np.abs(scale), table)]


def exactly(scale):
    """Not rounded."""
    return scale


def microscale(rule, emax, digits, largest):
    """Power-of-two scale of a block with this absolute maximum."""

    def scale(top):
        exponent = np.floor(np.log2(top))
        if rule == "ceil":
            return 2.0 ** (np.ceil(np.log2(top)) - emax)
        if rule == "rceil":
            return 2.0 ** np.ceil(np.log2(top / largest))
        if rule == "even":
            exponent = np.floor(np.log2(np.rint(top / 2.0**exponent * 2**digits) / 2**digits * 2.0**exponent))
        return 2.0 ** (exponent - emax)

    return scale


def _coded(w, levels, code_scale, scale, rounding=nearest):
    codes = rounding(w / np.where(code_scale == 0, 1, code_scale), levels)
    zero = code_scale == 0
    return np.where(zero, 0, levels[codes] * scale), np.where(zero, -1, codes)


def absmax(levels, reach, *, store=exactly, signed=False, codes_exact=False, rounding=nearest):
    """Scale (extreme weight) / reach; of equal magnitudes the positive one is the extreme."""

    def quantize(w):
        top, low = w.max(axis=-1, keepdims=True), w.min(axis=-1, keepdims=True)
        extreme = np.where(-low > top, low, top)
        scale = (-extreme if signed else np.abs(extreme)) / reach
        return _coded(w, levels, scale if codes_exact else store(scale), store(scale), rounding)

    return quantize


def percentile(levels, reach, p, *, store=exactly):
    """Scale (percentile of the magnitudes) / reach."""

    def quantize(w):
        scale = store(np.percentile(np.abs(w), p, axis=-1, keepdims=True) / reach)
        return _coded(w, levels, scale, scale)

    return quantize


def rms(levels, unit):
    """Scale (root mean square) times ``unit``."""

    def quantize(w):
        scale = np.sqrt(np.mean(w**2, axis=-1, keepdims=True)) * unit
        return _coded(w, levels, scale, scale)

    return quantize


def minmax(bits, *, store=exactly):
    """A range that holds 0, and an integer zero point."""

    def quantize(w):
        low, high = np.minimum(w.min(axis=-1, keepdims=True), 0), np.maximum(w.max(axis=-1, keepdims=True), 0)
        scale = store((high - low) / (2**bits - 1))
        safe = np.where(scale == 0, 1, scale)
        zero = np.minimum(np.rint(-low / safe), 2**bits - 1)
        codes = np.clip(np.rint(w / safe) + zero, 0, 2**bits - 1)
        return (codes - zero) * scale, codes + 1000 * zero

    return quantize


def affine(bits, *, store=exactly):
    """Minimum and scale as in q4_1: codes come from both, weights from both as they are stored."""

    def quantize(w):
        low = w.min(axis=-1, keepdims=True)
        scale = (w.max(axis=-1, keepdims=True) - low) / (2**bits - 1)
        codes = np.minimum(np.floor((w - low) / np.where(scale == 0, 1, scale) + 0.5), 2**bits - 1)
        return codes * store(scale) + store(low), codes

    return quantize


def two_level(levels, reach, n, store, largest):
    """Blocks of n in tensors, the last axis: scales in units of the one that puts the tensor's maximum on top."""

    def quantize(w):
        blocks = w.reshape(*w.shape[:-1], -1, n)
        tops = np.abs(blocks).max(axis=-1, keepdims=True)
        unit = tops.max(axis=-2, keepdims=True) / reach / largest
        scale = store(tops / (reach * unit)) * unit
        out, codes = _coded(blocks, levels, scale, scale)
        return out.reshape(w.shape), codes.reshape(w.shape)

    return quantize


def over_all_blocks(quantize, values, n):
    """E[e^2] / E[w^2] of blocks of n weights drawn from the values."""
    w = np.array(list(product(np.float64(values), repeat=n)))
    return np.mean((quantize(w)[0] - w) ** 2) / np.mean(np.float64(values) ** 2)


def over_angles(quantize, name):
    """Pairs of unit variance under a scale without unit: the radius integrates to a factor of each angle.

    ``integral of r^3 p(r cos f) p(r sin f) dr`` is 1 / pi for normal weights, 3 / (4 s^4) for Laplace's with
    s = |cos f| + |sin f|, and (sqrt(3) / t)^4 / 48 for uniform ones with t = max(|cos f|, |sin f|).
    """

    def unit(f):
        return np.stack([np.cos(f), np.sin(f)], axis=-1)

    grid = np.linspace(0, 2 * np.pi, 20001) + 1e-7
    edges = np.concatenate([_changes(lambda f: quantize(unit(f))[1], grid), np.arange(9) * np.pi / 4])
    f, width = _panels(np.unique(edges[(edges >= 0) & (edges <= 2 * np.pi)]))
    w = unit(f)
    error = ((quantize(w)[0] - w) ** 2).sum(axis=-1) / 2
    s, t = np.abs(w).sum(axis=-1), np.abs(w).max(axis=-1)
    return (error * width * {"normal": 1 / np.pi + 0 * s, "laplace": 0.75 / s**4, "uniform": 9 / t**4 / 48}[name]).sum()


def over_magnitudes(quantize, name, levels, stored, code_scale=None):
    """Pairs of unit variance whose stored scale jumps with the larger magnitude t; codes come from ``code_scale``."""
    reach, code_scale = {"normal": 9.0, "laplace": 28.0, "uniform": 3**0.5}[name], code_scale or stored
    octaves = reach * 2.0 ** np.arange(0, -np.log2(512 * reach), -0.25)  # below 1/512 lies 1e-11 of the error
    grid = reach * 2.0 ** np.linspace(-np.log2(512 * reach), 0, 30_001) * (1 - 1e-9)
    edges = np.union1d(octaves, _changes(lambda t: stored(t)[:, None], grid))
    middle = np.abs((levels[1:] + levels[:-1]) / 2)
    inside = code_scale((edges[1:] + edges[:-1]) / 2)[:, None] * middle  # where the extreme passes a threshold
    t, width = _panels(np.union1d(edges, inside[(inside > edges[:-1, None]) & (inside < edges[1:, None])]))
    cut = np.sort(np.minimum(np.abs(code_scale(t))[:, None] * np.concatenate([[0.0], middle, [1e300]]), t[:, None]))
    x, inner = _panels(cut)
    density, total = DENSITIES[name], 0.0
    for signs in product((1, -1), repeat=2):
        w = np.stack(np.broadcast_arrays(t[:, None] * signs[0], x * signs[1]), axis=-1)
        error = ((quantize(w)[0] - w) ** 2).sum(axis=-1)
        total += (error * density(t)[:, None] * density(x) * inner * width[:, None]).sum()
    return total


def _changes(codes, grid):
    """Where codes change, by bisection in each interval of the grid in which they do."""
    found = codes(grid)
    changed = np.any(found[1:] != found[:-1], axis=-1)
    low, high, below = grid[:-1][changed], grid[1:][changed], found[:-1][changed]
    for _ in range(60):
        middle = (low + high) / 2
        same = np.all(codes(middle) == below, axis=-1)
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return high


def _panels(edges):
    """Nodes and weights between edges along the last axis."""
    a, b = edges[..., :-1, None], edges[..., 1:, None]
    shape = (*edges.shape[:-1], -1)
    return ((a + b) / 2 + (b - a) / 2 * _NODES).reshape(shape), ((b - a) / 2 * _WEIGHTS).reshape(shape)
