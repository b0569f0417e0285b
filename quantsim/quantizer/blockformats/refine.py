"""The searches that go on to move one code at a time while the weighed error falls, for thousands of blocks at once.

Source: llama.cpp, ggml-quants.c: ``make_q3_quants`` (the scales of q3_k) and ``make_qp_quants`` (scales and minimums of
the K-quants with importances).
"""

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.numerics.ieee import on_cpu
from quantsim.quantizer.blockformats.blocks import extreme
from quantsim.quantizer.blockformats.search import TINY, Lane, flat, in_order, lanes
from quantsim.rounding import round_integer

SWEEPS = 5
SOME = 256  # blocks that are swept at a time

Rows: TypeAlias = Float[Array, "size blocks"]


class _Term(NamedTuple):
    """A code, and what it adds to the sums: code times weighed value, and code squared times weight."""

    code: Lane
    product: Lane
    square: Lane


class _Fit(NamedTuple):
    """Weighed sums of code times value and of code squared, whose ratio is the scale.

    ``subnormal``: below it a product of three sums has lost bits in the reference; None where none is so small.
    """

    product: Lane
    square: Lane
    subnormal: Lane | None = None


def _term(x: Lane, w: Lane, code: Lane) -> _Term:
    zero = x - x
    return _Term(code, (w * x) * code + zero, (w * code) * code + zero)


def _sums(terms: list[_Term], subnormal: Lane | None) -> _Fit:
    return _Fit(in_order([t.product for t in terms]), in_order([t.square for t in terms]), subnormal)


@partial(jax.jit, static_argnums=4)  # traced once, called eighty times
def _moved(x: Lane, w: Lane, term: _Term, fit: _Fit, ends: tuple[int, int]) -> tuple[_Term, _Fit]:
    """One code at its best given all others, and the sums with it, where that lowers the error."""
    product, square = fit.product - term.product, fit.square - term.square
    best = jnp.minimum(jnp.maximum(round_integer(lax.div(x * square, product)), ends[0]), ends[1])
    other = _term(x, w, best)
    longer = _Fit(product + other.product, square + other.square, fit.subnormal)
    powers = (longer.product * longer.product) * fit.square, (fit.product * fit.product) * longer.square
    if fit.subnormal is not None:
        powers = tuple(_rounded(p, fit.subnormal) for p in powers)
    moves = (product > 0) & (best != term.code) & (longer.square > 0) & (powers[0] > powers[1])
    return jax.tree.map(partial(jnp.where, moves), (other, longer), (term, fit))


def _moves(x: Lane, w: Lane, term: _Term, fit: _Fit, ends: tuple[int, int]) -> Bool[Array, " blocks"]:
    """Whether one code is not at its best given all others."""
    return _moved(x, w, term, fit, ends)[0].code != term.code


def _rounded(power: Lane, subnormal: Lane) -> Lane:
    """``power`` rounded again where the reference's is subnormal (XLA would flush it to zero)."""
    coarse = 1.5 * subnormal
    return jnp.where(power < subnormal, (power + coarse) - coarse, power)


def _swept(x: list[Lane], codes: list[Lane], ends: tuple[int, int]) -> PerBlock:
    """The scale after all sweeps, written out: one long fused loop over the blocks."""
    w = [ieee.square(v) for v in x]
    terms = [_term(*of_one) for of_one in zip(x, w, codes, strict=True)]
    fit = _sums(terms, None)
    for _ in range(SWEEPS):
        for i in range(len(x)):
            terms[i], fit = _moved(x[i], w[i], terms[i], fit, ends)
    return _ratio(fit)


def _settled(x: list[Lane], codes: list[Lane], ends: tuple[int, int]) -> Complex[Array, " blocks"]:
    """The scale of the codes as they are and, as the imaginary part, 1 where a sweep would move one of them.

    While none moves the sums stay, so that all can be asked at once; step by step each waits for the one before it.
    """
    w = [ieee.square(v) for v in x]
    terms = [_term(*of_one) for of_one in zip(x, w, codes, strict=True)]
    fit = _sums(terms, None)
    moving = [_moves(*of_one, fit, ends) for of_one in zip(x, w, terms, strict=True)]
    return lax.complex(_ratio(fit)[:, 0], reduce(operator.or_, moving).astype(jnp.float32))


def _swept_where_needed(rows: Rows, factor: Lane, half: int, whole: Blocks) -> PerBlock:
    """The scale after all sweeps, which few blocks need: these are gathered and swept some at a time."""
    first = [_first_codes(v, factor, half) for v in rows]
    found = apart(lambda: _settled(list(rows), first, _ends(half)), whole)
    moving, some = lax.imag(found) > 0, min(rows.shape[1], SOME)
    (places,) = jnp.nonzero(moving, size=rows.shape[1], fill_value=0)  # sweeps of block 0 are right, needed or not

    def step(state: tuple[Int[Array, ""], Lane]) -> tuple[Int[Array, ""], Lane]:
        begin, scale = state
        at = lax.dynamic_slice_in_dim(places, begin, some)
        x, f = apart(lambda: (rows[:, at], factor[at]), whole)
        swept = apart(lambda: _swept(list(x), [_first_codes(v, f, half) for v in x], _ends(half)), whole)
        return begin + some, scale.at[at].set(swept[:, 0])

    begin = jnp.sum(moving, dtype=jnp.int32) * 0  # as sharded as the data
    return lax.while_loop(lambda s: s[0] < jnp.sum(moving, dtype=jnp.int32), step, (begin, lax.real(found)))[1][:, None]


def _swept_codes(
    x: Rows, w: Rows, codes: Rows, subnormal: Lane | None, ends: tuple[int, int], as_bytes: bool = False
) -> tuple[Rows, PerBlock]:
    """The same sweeps in a loop, which keeps the codes too; ``as_bytes``: as the reference does, in unsigned bytes."""
    kept = _byte if as_bytes else _itself

    def move(t: Int[Array, ""] | int, state: tuple[Rows, _Fit]) -> tuple[Rows, _Fit]:
        codes, fit = state
        here = [lax.dynamic_index_in_dim(v, t % len(x), keepdims=False) for v in (x, w, codes)]
        term, fit = _moved(*here[:2], _term(*here), fit, ends)
        return lax.dynamic_update_index_in_dim(codes, kept(term.code), t % len(x), 0), fit

    start = _sums([_term(*of_one) for of_one in zip(x, w, codes, strict=True)], subnormal)
    found, fit = lax.fori_loop(0, SWEEPS * len(x), move, (kept(codes), start))
    return found, _ratio(fit)


def _itself(code: Float[Array, "..."]) -> Float[Array, "..."]:
    return code


def _byte(code: Float[Array, "..."]) -> Float[Array, "..."]:
    """What an unsigned byte makes of it: 255 of -1."""
    return code - 256 * jnp.floor(code * 2.0**-8)


def _ratio(fit: _Fit) -> PerBlock:
    return jnp.where(fit.square > 0, lax.div(fit.product, jnp.where(fit.square > 0, fit.square, 1.0)), 0.0)[:, None]


def _kept_first(first: Bool[Array, ""] | bool, code: Lane) -> Lane:
    return jnp.where(first, _byte(code), code)


class Refined(NamedTuple):
    """Scales of ``w = (code - half) * scale``; the codes 0 … 2 half - 1 are seldom needed and made on demand."""

    scale: PerBlock
    slowly: Callable[[], tuple[Rows, PerBlock]]

    def codes(self) -> Blocks:
        """The codes; 0 in a block of zeros."""
        return self.slowly()[0].T


def _ends(half: int) -> tuple[int, int]:
    return -half, half - 1


def _first_codes(x: Float[Array, "..."], factor: Float[Array, "..."], half: int) -> Float[Array, "..."]:
    return jnp.minimum(jnp.maximum(round_integer(factor * x), -half), half - 1)


def refined_scale_search(blocks: Blocks, half: int) -> Refined:
    """Scales with weights w^2: the codes at ``-half / extreme``, then five sweeps over the codes.

    The sweeps compare products of eight weights. Where these could be subnormal, below 2^-15, weights are multiplied by
    2^24 first, and so the products by 2^192.
    """
    top = extreme(blocks)[:, 0]
    empty, small = jnp.abs(top) < TINY, jnp.abs(top) < 2.0**-15
    unit = jnp.where(small, 2.0**24, jnp.float32(1.0))
    factor = jnp.where(empty, 0.0, ieee.divide(-float(half) + (top - top), jnp.where(empty, 1.0, top * unit)))
    flat_x = apart(lambda: flat(blocks * unit[:, None]), blocks)
    x = lanes(flat_x, blocks.shape[-1])

    def quickly() -> PerBlock:
        if on_cpu():
            return _swept_where_needed(flat_x.reshape(len(x), -1), factor, half, blocks)
        return apart(lambda: _swept(x, [_first_codes(v, factor, half) for v in x], _ends(half)), blocks)

    def slowly() -> tuple[Rows, PerBlock]:
        rows = flat_x.reshape(len(x), -1)
        start = _first_codes(rows, factor[None], half)
        found, scale = _swept_codes(
            rows, ieee.square(rows), start, jnp.where(small, 2.0**66, jnp.float32(0.0)), _ends(half)
        )
        return jnp.where(empty, 0.0, found + half), scale

    scale = lax.cond(jnp.any(small & ~empty), lambda: slowly()[1], quickly)
    return Refined(jnp.where(empty, 0.0, scale[:, 0] / unit)[:, None], slowly)


def scales_search(
    values: Float[Array, "blocks subs"], weights: Float[Array, "blocks subs"], top: int, *, as_bytes: bool = False
) -> tuple[PerBlock, Float[Array, "blocks subs"]]:
    """Unit and integers 0 … top of nonnegative scales: nine trials around ``top / largest``, then five sweeps.

    ``as_bytes``: values may be negative, and the reference keeps the codes of the first trial and of the sweeps, which
    are then negative, too, in unsigned bytes.
    """
    x, w = list(values.T), list(weights.T)
    zero = x[0] - x[0]
    largest = jnp.maximum(values.max(axis=-1), 0.0)
    empty = largest < TINY
    largest = jnp.where(empty, 1.0, largest)
    trials = np.array([t for t in range(-4, 5) if t], np.float32)
    divisors = jnp.asarray(np.append(np.float32(top), np.float32(0.1) * trials + np.float32(top)))

    def codes(factor: Lane) -> list[Lane]:
        return [jnp.minimum(round_integer(factor * v), top) for v in x]

    def loss(factor: Lane, kept: Callable[[Lane], Lane] = _itself) -> Lane:
        unit = ieee.divide(1 + zero, factor)
        apart = [v - (unit * kept(c) + zero) for v, c in zip(x, codes(factor), strict=True)]
        return in_order([(u * d + zero) * d + zero for u, d in zip(w, apart, strict=True)])

    def attempt(t: Int[Array, ""] | int, carry: tuple[Lane, Lane, Lane, Lane]) -> tuple[Lane, Lane, Lane, Lane]:
        best, least, factor, of_factor = carry
        better = (of_factor < least) | (t == 1)
        best, least = jnp.where(better, factor, best), jnp.where(better, of_factor, least)
        factor = ieee.divide(divisors[t] + zero, largest)
        return best, least, factor, loss(factor, partial(_kept_first, t == 0) if as_bytes else _itself)

    none = (zero, zero, zero, zero)
    best, least, factor, of_factor = lax.fori_loop(0, len(divisors), attempt, none)
    best = jnp.where(of_factor < least, factor, best)
    found, unit = _swept_codes(values.T, weights.T, jnp.stack(codes(best)), None, (-(2**20), top), as_bytes)
    return jnp.where(empty[:, None], 0.0, unit), jnp.where(empty[:, None], 0.0, found.T)
