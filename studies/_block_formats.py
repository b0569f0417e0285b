"""Printed numbers of four-bit block formats, each beside what the same setting gives here."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from quantsim import formats
from quantsim.measure.ratios import Estimate
from quantsim.measure.squares import squares, squares_of_pairs
from quantsim.populations import Normal, samples
from quantsim.quantizer import parse
from quantsim.rounding import snap
from quantsim.sweep import array_keys, predicted_sqnr_db

from . import _crest as crest

_SHAPE, _STD = (4096, 512), 1e-3  # of the script whose differences are repeated
_REAL = "tensors of a real model, weights, inputs and gradients; measured: normal weights"


@dataclass(frozen=True)
class Printed:
    """An SQNR in dB, printed to two digits."""

    source: str
    setting: str
    spec: str
    db: float
    why: str


_INT_FP, _SHRINKAGE = "arXiv:2510.25602v1, figure 4", "arXiv:2606.20381, as others quote it"
_TWO = "block16:absmax:e4m3+f32"
SQNRS = (
    Printed(_INT_FP, "NVINT4", f"int4:{_TWO}", 20.55, _REAL),
    Printed(_INT_FP, "NVFP4", f"e2m1:{_TWO}", 20.60, _REAL),
    Printed(_INT_FP, "NVINT4, rotated", f"sylvester32:signs(int4:{_TWO})", 21.65, _REAL),
    Printed(_INT_FP, "NVFP4, rotated", f"sylvester32:signs(e2m1:{_TWO})", 20.35, _REAL),
    Printed(_INT_FP, "MXINT4", "int4:block32:absmax:e8m0:rceil", 15.89, _REAL),
    Printed(_INT_FP, "MXFP4", "e2m1:block32:absmax:e8m0:rceil", 17.98, _REAL),
    Printed(_INT_FP, "MXINT4, rotated", "sylvester32:signs(int4:block32:absmax:e8m0:rceil)", 17.22, _REAL),
    Printed(_INT_FP, "MXFP4, rotated", "sylvester32:signs(e2m1:block32:absmax:e8m0:rceil)", 18.79, _REAL),
    Printed(_SHRINKAGE, "E2M1, blocks of 16, f32 scale", "e2m1:block16", 21.90, _REAL),
    Printed(_SHRINKAGE, "E1M2, blocks of 16, f32 scale", "e1m2:block16", 19.94, _REAL),
    Printed(_SHRINKAGE, "E2M1, rotated", "sylvester16:signs(e2m1:block16)", 20.00, _REAL),
    Printed(_SHRINKAGE, "E1M2, rotated", "sylvester16:signs(e1m2:block16)", 23.19, _REAL),
)


@dataclass(frozen=True)
class Difference:
    """What e2m1 is ahead of int4 under one scale, in dB, mean of three samples that spread by up to 0.011."""

    setting: str
    block: int
    scale: str
    db: float
    tensor: bool = False


_SPREAD = 0.011 / 3**0.5  # standard error of what that script gives
_UP = "Kevin-Liu-01/cotcodec, crest_prediction.py"
DIFFERENCES = (
    Difference("powers of two, up", 32, "e8m0:rceil", 1.82),
    Difference("powers of two, up", 16, "e8m0:rceil", 1.27),
    Difference("e4m3 rounded up, in two levels", 16, "e4m3", -0.69, tensor=True),
    Difference("bf16 rounded up", 32, "bf16", -0.34),
)


def rows(*, arrays: int, seed: int, small: bool) -> list[dict[str, Any]]:
    """All but the crossings, which need their own blocks."""
    shape = (64, 512) if small else _SHAPE
    w = samples(Normal(std=_STD), array_keys(seed, "printed", max(arrays // 2, 2)), shape)
    return [*sqnrs(w), *differences(w)]


def sqnrs(w: Float[Array, "arrays rows columns"]) -> Iterator[dict[str, Any]]:
    """SQNRs of real tensors, beside those of normal weights."""
    for printed in SQNRS:
        q = parse(printed.spec)
        told = predicted_sqnr_db(Normal(std=_STD), q, w.shape[1:])
        measured = squares(w, q).sqnr_db
        yield row(printed.source, f"{printed.setting}: SQNR (dB)", printed.db, measured, told) | {
            "way": "normal",
            "why": printed.why,
        }


def differences(w: Float[Array, "arrays rows columns"]) -> Iterator[dict[str, Any]]:
    """Differences on normal weights, with scales rounded up as there and to nearest as here."""
    for printed in DIFFERENCES:
        up, nearest = (difference_db(w, printed, up=up) for up in (True, False))
        spec = f"block{printed.block}:absmax:{printed.scale}{'+f32' * printed.tensor}"
        told = [predicted_sqnr_db(Normal(std=_STD), parse(f"{e}:{spec}"), w.shape[1:]) for e in ("e2m1", "int4")]
        setting = f"E2M1 less INT4, blocks of {printed.block}, {printed.setting} (dB)"
        yield row(_UP, setting, printed.db, up, None) | {
            "agrees": crest.agree(Estimate(up.value, hypot(up.se, _SPREAD)), printed.db, 2),
            "way": "normal",
            "why": f"scales to the nearest, as formats have them: {nearest.value:+.2f}, by theory "
            f"{(told[0] or 0) - (told[1] or 0):+.2f}",
        }


def difference_db(w: Float[Array, "arrays rows columns"], printed: Difference, *, up: bool) -> Estimate:
    """What e2m1 is ahead of int4 on the same weights."""
    spec = f"block{printed.block}:absmax:{printed.scale}{'+f32' * printed.tensor}"
    if not up or printed.scale.startswith("e8m0"):
        return crest.ahead(squares(w, parse(f"e2m1:{spec}")), squares(w, parse(f"int4:{spec}")))
    pairs = ([(a, rounded_up(a, element, printed)) for a in w] for element in ("e2m1", "int4"))
    return crest.ahead(*(squares_of_pairs(found) for found in pairs))


def rounded_up(w: Float[Array, "rows columns"], element: str, printed: Difference) -> Float[Array, "rows columns"]:
    """A round trip whose scales are the next number of their format above max |w| / last level, so that none clips."""
    fmt = formats.parse(element)
    stored: Any = formats.parse(printed.scale)
    blocks = w.reshape(-1, printed.block)
    last = formats.reach(fmt)
    exact = jnp.abs(blocks).max(axis=1, keepdims=True) / last
    tensor = exact.max() / formats.grid(stored).high if printed.tensor else jnp.float32(1.0)
    scale = next_above(exact / tensor, stored) * tensor
    return (snap(blocks / scale, fmt) * scale).reshape(w.shape)


def next_above(x: Float[Array, "..."], stored: Any) -> Float[Array, "..."]:
    """The smallest number of a float format that is not below ``x``, for normal numbers."""
    nearest = snap(x, stored)
    step = 2.0 ** (jnp.floor(jnp.log2(x)) - stored.mantissa_bits)
    return jnp.where(nearest < x, snap(x + 0.75 * step, stored), nearest)


def crossings(rows: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Of the pairs with blocks of ``n``, where both err alike, measured on both kinds of blocks and by the formulas."""
    found = []
    for pair in crest.PAIRS:
        if pair.block != n:
            continue
        exact, eight = (crest.formula_crossing(pair, q) for q in (pair.levels, pair.levels + 1))
        for way in (crest.SHAPED, crest.NATURAL):
            at = crest.crossing([r for r in rows if r["pair"] == pair.name and r["way"] == way])
            steps = pair.levels
            why = f"their formula gives {eight:.2f} with {steps + 1} steps, {exact:.2f} with the {steps} there are"
            if pair.printed > n**0.5:
                why += f"; no block of {n} has a crest factor above {n**0.5:.2f}"
            setting = f"{pair.name}: crest factor below which integers err less, {way} blocks"
            about = row("arXiv:2510.25602v1, section 4.2", setting, pair.printed, at, exact)
            found.append(about | {"way": way, "pair": pair.name, "why": why})
    return found


def row(source: str, setting: str, printed: float, measured: Estimate, predicted: float | None) -> dict[str, Any]:
    """A printed number beside the measured one: alike within its rounding and three standard errors, or not."""
    return {
        "kind": "printed",
        "source": source,
        "setting": setting,
        "printed": printed,
        "measured": measured.value,
        "measured_se": measured.se,
        "predicted": predicted,
        "agrees": crest.agree(measured, printed, 2),
    }
