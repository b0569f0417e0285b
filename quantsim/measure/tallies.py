"""What the device says of weights and their errors: sums over fixed tiles, extremes and counts, for the host to fold.

The sums over a tile are float32, in the order that ``numerics.tiles`` documents. Their squares leave the range of
float32 for weights near 1e-20 or 1e20: then ``Exponents`` give weights and errors other units, powers of two, which
change no bit of a sum that neither overflows nor underflows; ``on_host`` brings the sums back to the unit of the
weights, in float64.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from math import frexp, isfinite
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from quantsim._types import Weights
from quantsim.numerics import ieee
from quantsim.numerics.meshes import placed_like
from quantsim.numerics.tiles import TILE, over_tiles

#: Names of the sums of a tally, in the order of ``Tally.sums``.
SUMS = ("count", "e", "abs_e", "e2", "w2", "ew")
#: Where the largest weight and the largest error may lie for their squares and products to be summed as they are.
#: 4096 squares of the largest stay below 2^128. Squares below the smallest normal number, 2^-126, count as zero; 2^24
#: of them are less than 2^-22 of the square of the smallest.
SAFE = (2.0**-40, 2.0**57)

# Any: a tree transformation may put shapes or shardings in the place of arrays
PerTile = Float[Array | np.ndarray, "... tiles"] | Any
Extreme = Float[Array | np.ndarray, "..."] | Any
Count = Int32[Array | np.ndarray, "..."] | Any


@partial(jax.tree_util.register_dataclass, data_fields=["w", "e"], meta_fields=[])
@dataclass(frozen=True)
class Exponents:
    """Units in which a tally sums: 2^w for the weights, 2^e for the errors; between -126 and 126."""

    w: Any
    e: Any


@partial(jax.tree_util.register_dataclass, data_fields=["count", "w2", "max_signal", "nonzero", "unit"], meta_fields=[])
@dataclass(frozen=True)
class Signal:
    """What the weights alone decide: of each tile their number and the sum of w^2; the largest |w|, how many are not 0.

    ``unit`` is None where the sums are in the unit of the weights.
    """

    count: PerTile
    w2: PerTile
    max_signal: Extreme
    nonzero: Count
    unit: Exponents | None = None

    @property
    def sums(self) -> Float[Array | np.ndarray, "... tiles 2"]:
        """Number of weights and sum of w^2 of each tile, side by side."""
        return _stacked(self)


_NOISE = ["e", "abs_e", "e2", "ew", "max_abs", "zeroed", "clipped", "unit"]


@partial(jax.tree_util.register_dataclass, data_fields=_NOISE, meta_fields=[])
@dataclass(frozen=True)
class Noise:
    """What the errors decide: of each tile the sums of e, |e|, e^2, e w; the largest |e|, how many became 0 or clip."""

    e: PerTile
    abs_e: PerTile
    e2: PerTile
    ew: PerTile
    max_abs: Extreme
    zeroed: Count
    clipped: Count
    unit: Exponents | None = None

    @property
    def sums(self) -> Float[Array | np.ndarray, "... tiles 4"]:
        """Sums of e, |e|, e^2 and e w of each tile, side by side."""
        return _stacked(self)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[*SUMS, "max_abs", "max_signal", "nonzero", "zeroed", "clipped", "unit"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Tally:
    """Signal and noise: all that ``ErrorStats`` are made of.

    >>> t = tally(jnp.array([1.0, -2.0]), jnp.array([1.5, -2.0]))
    >>> t.count.tolist(), t.e2.tolist(), t.w2.tolist(), float(t.max_abs)
    ([2.0], [0.25], [5.0], 0.5)
    """

    count: PerTile
    e: PerTile
    abs_e: PerTile
    e2: PerTile
    w2: PerTile
    ew: PerTile
    max_abs: Extreme
    max_signal: Extreme
    nonzero: Count
    zeroed: Count
    clipped: Count
    unit: Exponents | None = None

    @property
    def sums(self) -> Float[Array | np.ndarray, "... tiles 6"]:
        """The sums side by side, in the order of ``SUMS``."""
        return _stacked(self)


Part = TypeVar("Part", Tally, Signal, Noise)


def _stacked(part: Tally | Signal | Noise) -> Any:
    sums = [getattr(part, name) for name in SUMS if hasattr(part, name)]
    return (np if isinstance(sums[0], np.ndarray) else jnp).stack(sums, axis=-1)


def error(w: Weights, w_hat: Weights) -> Weights:
    """E = w_hat - w rounded once, bit for bit what NumPy computes, also inside a jitted function."""
    return ieee.unfused(w_hat, w) - w


# --- on the device --------------------------------------------------------------------------------------------------


@jax.jit
def signal(w: Weights, unit: Exponents | None = None) -> Signal:
    """What a tally says of the weights alone."""

    def measured(w: Weights, unit: Exponents | None) -> Signal:
        return _as_signal(over_tiles(partial(_of_weights, unit), w), w.size, unit)

    return placed_like(w, measured, w, unit)


@jax.jit
def noise(w: Weights, w_hat: Weights, unit: Exponents | None = None) -> Noise:
    """What a tally says of the errors."""

    def measured(w: Weights, w_hat: Weights, unit: Exponents | None) -> Noise:
        return _as_noise(over_tiles(partial(_of_errors, unit), w, w_hat), None, unit)

    return placed_like(w, measured, w, w_hat, unit)


@jax.jit
def tally(
    w: Weights, w_hat: Weights, clipped: Bool[Array, "..."] | None = None, *, unit: Exponents | None = None
) -> Tally:
    """Sums over fixed tiles, extremes and counts of one array of weights; jit, vmap and shard_map friendly.

    Args:
        w: weights of any shape.
        w_hat: what they became.
        clipped: which of them lie out of range, as ``Quantizer.clipped`` says.
        unit: units for weights whose squares leave the range of float32.
    """

    def measured(w: Weights, w_hat: Weights, clipped: Bool[Array, "..."] | None, unit: Exponents | None) -> Tally:
        found = over_tiles(lambda w, w_hat: (*_of_weights(unit, w), *_of_errors(unit, w, w_hat)), w, w_hat)
        return combined(_as_signal(found[:3], w.size, unit), _as_noise(found[3:], clipped, unit))

    return placed_like(w, measured, w, w_hat, clipped, unit)


def _of_weights(unit: Exponents | None, w: Float[Array, "tiles 4096"]) -> tuple[Array, ...]:
    """What is summed or compared: w^2, whether w is not 0, and the bits of |w|."""
    scaled = w if unit is None else w * ieee.power_of_two(-unit.w)
    return ieee.square(scaled), (w != 0).astype(jnp.float32), _magnitude(w)


def _of_errors(
    unit: Exponents | None, w: Float[Array, "tiles 4096"], w_hat: Float[Array, "tiles 4096"]
) -> tuple[Array, ...]:
    """What is summed or compared: e, |e|, e^2, e w, whether w was set to 0, and the bits of |e|."""
    e, zeroed = error(w, w_hat), ((w_hat == 0) & (w != 0)).astype(jnp.float32)
    largest = _magnitude(e)
    if unit is not None:
        w, e = w * ieee.power_of_two(-unit.w), e * ieee.power_of_two(-unit.e)
    return e, jnp.abs(e), ieee.unfused(e * e, w), ieee.unfused(e * w, w), zeroed, largest


def _magnitude(x: Float[Array, "..."]) -> Int32[Array, "..."]:
    return ieee.bits_of(x) & 0x7FFFFFFF


def _as_signal(of_tiles: tuple[Array, ...], size: int, unit: Exponents | None) -> Signal:
    w2, nonzero, largest = of_tiles
    count = np.full(w2.shape, TILE, np.float32)
    count[-1:] = size - TILE * (len(count) - 1)
    return Signal(jnp.asarray(count), w2, _largest(largest), _total(nonzero), unit)


def _as_noise(of_tiles: tuple[Array, ...], clipped: Bool[Array, "..."] | None, unit: Exponents | None) -> Noise:
    e, abs_e, e2, ew, zeroed, largest = of_tiles
    out = jnp.zeros((), jnp.int32) if clipped is None else jnp.sum(clipped, dtype=jnp.int32)
    return Noise(e, abs_e, e2, ew, _largest(largest), _total(zeroed), out, unit)


def _largest(bits: Int32[Array, "..."]) -> Float[Array, ""]:
    return ieee.from_bits(jnp.max(bits, initial=0))


def _total(counts: Float[Array, "..."]) -> Int32[Array, ""]:
    return jnp.sum(counts.astype(jnp.int32), dtype=jnp.int32)


# --- parts ----------------------------------------------------------------------------------------------------------


def combined(of_w: Signal, of_e: Noise) -> Tally:
    """Tally of weights and of their errors."""
    return Tally(**vars(of_w) | vars(of_e))


def joined(*parts: Part) -> Part:
    """Tally, signal or noise of consecutive parts of one array; a part may be a stack along a leading axis."""

    def join(name: str) -> Any:
        if name == "unit":  # one for all parts
            return jax.tree.map(lambda exponent: exponent.reshape(-1)[0], parts[0].unit)
        together = jnp.concatenate([getattr(p, name).reshape(-1) for p in parts])
        if name in SUMS:
            return together
        is_extreme = jnp.issubdtype(together.dtype, jnp.floating)
        return _largest(ieee.bits_of(together)) if is_extreme else jnp.sum(together, dtype=jnp.int32)

    return type(parts[0])(**{f.name: join(f.name) for f in fields(parts[0])})


# --- on the host ----------------------------------------------------------------------------------------------------


def unit_for(max_signal: float, max_abs: float) -> Exponents | None:
    """Units for weights and errors up to these magnitudes; None where sums of squares need none.

    >>> unit_for(3.0, 0.01) is None, unit_for(3e-20, 1e-22)
    (True, Exponents(w=np.int32(-65), e=np.int32(-74)))
    """
    largest = [float(m) if isfinite(m) and m > 0 else 1.0 for m in (max_signal, max_abs)]
    if all(SAFE[0] <= m <= SAFE[1] for m in largest):
        return None
    return Exponents(*(np.int32(np.clip(frexp(m)[1] - 1, -126, 126)) for m in largest))


def on_host(part: Part) -> Part:
    """The part in NumPy arrays, its sums float64 and in the unit of the weights.

    Raises:
        TypeError: for a part whose numbers are not known, inside ``jit`` and other transformations.
    """
    require_known(*jax.tree.leaves(part))
    return _in_float64(part)


def require_known(*arrays: Array | np.ndarray) -> None:
    """Refuse arrays whose numbers are not known, inside ``jit`` and other transformations."""
    if not all(hasattr(a, "sharding") for a in arrays if isinstance(a, jax.Array)):  # what is traced lies nowhere
        raise TypeError(
            "statistics are folded on the host, not inside jit, vmap or grad: return quantsim.measure.tally(w, w_hat) "
            "from there, and outside of it fold: measure.fold(measure.init(), tally)"
        )


def _in_float64(part: Part) -> Part:
    wide = {name: np.asarray(getattr(part, name), np.float64) for name in SUMS if hasattr(part, name)}
    if part.unit is not None:
        w, e = (np.asarray(k)[..., None] for k in (part.unit.w, part.unit.e))
        powers = {"e": e, "abs_e": e, "e2": 2 * e, "w2": 2 * w, "ew": e + w}
        wide |= {name: np.ldexp(wide[name], power) for name, power in powers.items() if name in wide}
    others = {f.name: np.asarray(getattr(part, f.name)) for f in fields(part) if f.name not in (*SUMS, "unit")}
    return replace(part, **wide, **others, unit=None)
