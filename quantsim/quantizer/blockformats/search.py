"""The searches of llama.cpp's quantizers, for thousands of blocks side by side.

The reference adds in float32 in index order, so a block cannot be summed as a tree. Here weight i of every block is one
long vector (a *lane* is a block): the sums stay in order and the blocks fill the vector registers. ``product + zero``,
with a zero that the compiler cannot know, keeps a multiplication from being fused with the addition that follows it.

Source: llama.cpp, ggml-quants.c: ``make_qx_quants``, ``make_qkx2_quants``, ``make_qkx3_quants``, ``make_q3_quants``,
``make_qp_quants``. Each is a grid of trial scales; the codes of a trial give a least-squares scale, and the trial with
the smallest weighed error wins.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.quantizer.blockformats.blocks import ends, extreme
from quantsim.rounding import round_integer

Lane: TypeAlias = Float[Array, " blocks"]
Weigh: TypeAlias = Blocks | Callable[[Lane], Lane]

#: A block whose largest weight is smaller is stored as zeros.
TINY = 1e-15


class Grid(NamedTuple):
    """Trial scales of a search: the range is divided by ``top + start + step * t`` for t = 0 … steps."""

    top: int
    start: float
    step: float
    steps: int
    absolute: bool = False

    def divisors(self) -> np.ndarray:
        """Float32, added in the reference's order."""
        t = np.arange(self.steps + 1, dtype=np.float32)
        return (np.float32(self.start) + np.float32(self.step) * t) + np.float32(self.top)


def flat(blocks: Blocks) -> Float[Array, " weights"]:
    """Weight 0 of every block, then weight 1 of every block, and so on."""
    return blocks.T.reshape(-1)


def lanes(flat: Float[Array, " weights"], size: int) -> list[Lane]:
    """The vectors of ``flat``, one for each place in a block."""
    n = len(flat) // size
    return [flat[i * n : (i + 1) * n] for i in range(size)]


def _weigh(weights: Weigh, flat_w: Any, x: list[Lane]) -> list[Lane]:
    return [weights(v) for v in x] if callable(weights) else lanes(flat_w, len(x))


def in_order(terms: Sequence[Lane]) -> Lane:
    """Sum from the first to the last."""
    total = terms[0]
    for t in terms[1:]:
        total = total + t
    return total


def _pair(a: Lane, b: Lane) -> Complex[Array, " blocks"]:
    """Two sums in one array: the compiler makes a loop for each array, and would compute the codes in both."""
    return lax.complex(a, b)


def _nearest(x: Float[Array, "..."], low: int, high: int) -> Float[Array, "..."]:
    return jnp.minimum(jnp.maximum(round_integer(x), low), high)


# --- scale and minimum ----------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """A trial: its weighed error, the line ``scale * code + low``, the ``base`` and ``factor`` that made its codes."""

    error: Lane
    scale: Lane
    low: Lane
    base: Lane
    factor: Lane


def _line_codes(x: list[Lane], t: _Line, top: int) -> list[Lane]:
    return [_nearest(t.factor * (v - t.base), 0, top) for v in x]


def _line_error(x: list[Lane], w: list[Lane], t: _Line, grid: Grid) -> Lane:
    zero = x[0] - x[0]
    apart = [((t.scale * c + zero) + t.low) - v for v, c in zip(x, _line_codes(x, t, grid.top), strict=True)]
    loss = [jnp.abs(d) if grid.absolute else d * d + zero for d in apart]
    return in_order([u * d + zero for u, d in zip(w, loss, strict=True)])


def _line_sums(x: list[Lane], w: list[Lane], t: _Line, top: int) -> tuple[Complex[Array, " blocks"], Lane]:
    """Weighed sums of the codes and their squares, as a pair, and of their products with the weights."""
    zero = x[0] - x[0]
    c = _line_codes(x, t, top)
    wc = [u * v + zero for u, v in zip(w, c, strict=True)]
    squares = [a * b + zero for a, b in zip(wc, c, strict=True)]
    products = [a * b + zero for a, b in zip(wc, x, strict=True)]
    return _pair(in_order(wc), in_order(squares)), in_order(products)


def _better(t: _Line, best: _Line, sure: Bool[Array, ""] | bool = False) -> _Line:
    """The trial with the smaller error, of equals ``best``; ``t`` whatever its error if ``sure``."""
    return _Line(*(jnp.where((t.error < best.error) | sure, a, b) for a, b in zip(t, best, strict=True)))


def _fitted(
    sums: tuple[Complex[Array, " blocks"], Lane], sum_w: Lane, sum_x: Lane
) -> tuple[Lane, Lane, Bool[Array, " blocks"]]:
    """Least-squares scale and minimum (at most 0), and whether there is one."""
    c, cc, cx = lax.real(sums[0]), lax.imag(sums[0]), sums[1]
    zero = c - c
    d = (sum_w * cc + zero) - (c * c + zero)
    scale = lax.div((sum_w * cx + zero) - (sum_x * c + zero), d)
    low = lax.div((cc * sum_x + zero) - (c * cx + zero), d)
    return jnp.where(low > 0, lax.div(cx, cc), scale), jnp.minimum(low, 0.0), d > 0


def scale_and_min_search(blocks: Blocks, weights: Weigh, grid: Grid) -> tuple[PerBlock, PerBlock, Blocks]:
    """Scale, minimum (at most 0) and codes 0 … top of each block; a better trial moves the base of the next ones.

    The first trial divides the range by ``top`` and keeps its scale and minimum; each other one has the least-squares
    line of its codes. ``weights`` weighs the squared errors, or the absolute ones if the grid says so.
    """
    size, flat_x = blocks.shape[-1], flat(blocks)
    flat_w = None if callable(weights) else flat(weights)
    x = lanes(flat_x, size)
    w = _weigh(weights, flat_w, x)
    zero = x[0] - x[0]
    low, high = (v[:, 0] for v in ends(blocks))
    low = jnp.minimum(low, 0.0)
    empty = high <= low
    sum_w, sum_x = in_order(w), in_order([a * b + zero for a, b in zip(w, x, strict=True)])
    divisors = jnp.asarray(np.append(np.float32(grid.top), grid.divisors()))

    def attempt(t: Int[Array, ""] | int, carry: tuple[_Line, _Line]) -> tuple[_Line, _Line]:
        best, first = _better(*carry, sure=t == 1), t == 0
        # tied to t, so that nothing computed from the weights is moved out of the loop and stored
        here_x, here_w, here_t = lax.optimization_barrier((flat_x, flat_w, t))
        x = lanes(here_x, size)
        w = _weigh(weights, here_w, x)
        factor = ieee.divide(divisors[here_t] + zero, jnp.where(empty, 1.0, high - best.low))
        trial = best._replace(base=best.low, factor=factor)
        sums = apart(partial(_line_sums, x, w, trial, grid.top), blocks, idle=first)
        scale, low, found = _fitted(sums, sum_w, sum_x)
        scale, low = jnp.where(first, ieee.divide(1 + zero, factor), scale), jnp.where(first, best.low, low)
        trial = trial._replace(scale=scale, low=low)
        return trial._replace(error=jnp.where(found | first, _line_error(x, w, trial, grid), jnp.inf)), best

    none = _Line(zero + jnp.inf, zero, low, low, zero)
    best = _better(*lax.fori_loop(0, len(divisors), attempt, (none, none)))
    codes = _nearest(best.factor[:, None] * (blocks - best.base[:, None]), 0, grid.top)
    scale = jnp.where(empty, 0.0, best.scale)[:, None]
    return scale, jnp.where(empty, low, best.low)[:, None], jnp.where(empty[:, None], 0.0, codes)


# --- scale alone ----------------------------------------------------------------------------------------------------


class _Slope(NamedTuple):
    """A trial: the pair of weighed sums of code times weight and of code squared, and the factor of the codes."""

    sums: Complex[Array, " blocks"]
    factor: Lane


def _slope_sums(x: list[Lane], w: list[Lane], factor: Lane, snap: Callable[[Lane], Lane], code_first: bool) -> _Slope:
    zero = x[0] - x[0]
    c = [snap(factor * v) for v in x]
    terms = [(u * a) * v if code_first else (u * v) * a for u, v, a in zip(w, x, c, strict=True)]
    square = in_order([(u * a) * a + zero for u, a in zip(w, c, strict=True)])
    return _Slope(_pair(in_order([t + zero for t in terms]), square), factor)


def slope_search(
    blocks: Blocks, weights: Weigh, divisors: np.ndarray, snap: Callable[[Lane], Lane], *, table: bool = False
) -> tuple[PerBlock, PerBlock]:
    """Least-squares scale of each block and the factor whose codes ``snap(factor * w)`` gave it.

    Tries ``factor = divisor / extreme`` for each divisor; of equally good ones the first, also where all codes that
    count are 0, and so the scale. Both are 0 for a block of zeros.
    ``table``: with the operations of iq4_nl: the first factor is ``1 / (extreme / divisor)``, and codes multiply first.
    """
    size, flat_x = blocks.shape[-1], flat(blocks)
    flat_w = None if callable(weights) else flat(weights)
    top = extreme(blocks)[:, 0]
    empty = jnp.abs(top) < TINY
    top = jnp.where(empty, 1.0, top)
    tried, zero = jnp.asarray(divisors, jnp.float32), top - top

    def sums(t: Int[Array, ""] | int) -> _Slope:
        here_x, here_w, here_t = lax.optimization_barrier((flat_x, flat_w, t))
        factor = ieee.divide(tried[here_t] + zero, top)
        if table:
            factor = jnp.where(here_t == 0, ieee.divide(1 + zero, ieee.divide(top, divisors[0].item())), factor)
        x = lanes(here_x, size)
        return _slope_sums(x, _weigh(weights, here_w, x), factor, snap, table)

    def better(
        s: _Slope, best: tuple[Lane, Lane, Lane], is_first: Bool[Array, ""] | bool = False
    ) -> tuple[Lane, Lane, Lane]:
        product, square = lax.real(s.sums), lax.imag(s.sums)
        scale = jnp.where(square > 0, lax.div(product, square), 0.0)
        wins = (square > 0) & (product * product > best[0] * square) | is_first
        return jax.tree.map(lambda a, b: jnp.where(wins, a, b), (scale * product, scale, s.factor), best)

    def attempt(t: Int[Array, ""] | int, carry: tuple[_Slope, tuple]) -> tuple[_Slope, tuple]:
        return sums(t), better(*carry, is_first=t == 1)

    start = (_Slope(_pair(zero, zero), zero), (zero, zero, zero))
    _, scale, factor = better(*lax.fori_loop(0, len(divisors), attempt, start))
    return jnp.where(empty, 0.0, scale)[:, None], jnp.where(empty, 0.0, factor)[:, None]


def scale_search(blocks: Blocks, weights: Weigh, half: int) -> tuple[PerBlock, Blocks]:
    """Scale and codes 0 … 2 half - 1 of ``w = (code - half) * scale``: 19 trials around ``-half / extreme``."""
    trials = np.array([t for t in range(-9, 10) if t], np.float32)
    divisors = -(np.float32(half) + np.float32(0.1) * trials)
    snap = partial(_nearest, low=-half, high=half - 1)
    scale, factor = slope_search(blocks, weights, np.append(np.float32(-half), divisors), snap)
    return scale, jnp.where(factor == 0, 0.0, snap(factor * blocks) + half)
