"""Weights so small that a format of few exponents stores their scales badly: smaller blocks then err more."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from quantsim._types import Shape
from quantsim.measure.ratios import columns, decibels
from quantsim.measure.squares import squares
from quantsim.populations import Normal, samples
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

#: Scale rules of e2m1, the first of which breaks down.
RULES = ("absmax:ue4m3", "search8:ue4m3", "absmax:ue5m3", "absmax:bf16")
BLOCKS = (8, 16)
#: What a stored scale is.
KINDS = ("zero", "subnormal", "normal")
_SMALLEST_NORMAL = 2.0**-6  # of e4m3


def by_sigma(sigmas: Sequence[float], shape: Shape, *, arrays: int, seed: int) -> list[dict[str, Any]]:
    """SQNR of every rule in every block at every σ, and what blocks of 8 are ahead of blocks of 16."""
    rows = []
    for sigma in sigmas:
        pop = Normal(std=sigma)
        w = samples(pop, array_keys(seed, "small weights", arrays), shape)
        for rule in RULES:
            specs = {block: f"e2m1:block{block}:{rule}" for block in BLOCKS}
            found = {block: squares(w, parse(spec)) for block, spec in specs.items()}
            gain = decibels(found[16].error, found[8].error)
            for block, spec in specs.items():
                about = {"kind": "sigma", "sigma": sigma, "rule": rule, "block": block, "weights": int(w.size)}
                about |= columns(sqnr_db=found[block].sqnr_db, gain_of_8_db=gain) | errors_by_scale(w, spec)
                rows.append(about | {"predicted_sqnr_db": predicted_sqnr_db(pop, parse(spec), shape)})
    return rows + [order(Rows(rows), rule) for rule in RULES]


def errors_by_scale(w: Float[Array, "arrays rows columns"], spec: str) -> dict[str, float]:
    """Shares of the squared error, and of the blocks, whose scale is zero, subnormal and normal in e4m3."""
    q = parse(spec)
    scale = np.asarray(q.quantize(w).scale, np.float64)
    e = np.asarray(w, np.float64) - np.asarray(q.roundtrip(w), np.float64)
    of_block = np.square(e).reshape(*scale.shape, -1).sum(axis=-1)
    where = {
        "zero": scale == 0,
        "subnormal": (scale > 0) & (scale < _SMALLEST_NORMAL),
        "normal": scale >= _SMALLEST_NORMAL,
    }
    errors = {f"error_of_{name}": float(of_block[mask].sum() / of_block.sum()) for name, mask in where.items()}
    return errors | {f"blocks_of_{name}": float(mask.mean()) for name, mask in where.items()}


def order(rows: Rows, rule: str) -> dict[str, Any]:
    """The largest σ at which blocks of 8 err more than blocks of 16 under a rule, beside what was printed of it."""
    own = rows.where(rule=rule, block=8)
    sigma, gain = np.log(own.column("sigma")), own.column("gain_of_8_db")
    turned = [k for k in range(len(gain) - 1) if gain[k] < 0 <= gain[k + 1]]
    about = {"kind": "printed", "way": "order of blocks", "pair": rule}
    if rule == RULES[0]:
        k = turned[-1] if turned else None
        at = float("nan") if k is None else float(np.exp(np.interp(0.0, gain[k : k + 2], sigma[k : k + 2])))
        step = float(np.exp(sigma[1] - sigma[0])) if len(sigma) > 1 else 1.0
        return about | {
            "source": "arXiv:2601.19026",
            "setting": "σ below which blocks of 8 err more than blocks of 16, e2m1 under ue4m3 alone, normal weights",
            "printed": 0.02,
            "measured": at,
            "measured_se": at * (step - 1) / 2,  # half a step of the grid of σ
            "predicted": predicted_turn(sigma, rule),
            "agrees": bool(0.015 <= at <= 0.025),
            "why": "printed without a second digit: taken as 0.015 to 0.025",
        }
    least = int(np.argmin(gain))
    never, sigmas = bool(gain[least] >= 0), f"{own[0]['sigma']:g} to {own[-1]['sigma']:g}"
    return about | {
        "source": "arXiv:2605.08565" if "search" in rule else "arXiv:2601.19026",
        "setting": f"blocks of 8 never err more than blocks of 16, e2m1, {rule}, σ {sigmas}",
        "printed": 1.0,
        "measured": float(never),
        "measured_se": 0.0,
        "predicted": None,
        "agrees": never,
        "why": f"least gain {gain[least]:.2f} dB, at σ = {own[least]['sigma']:g}",
    }


def predicted_turn(sigma: np.ndarray, rule: str) -> float | None:
    """The same σ by theory, to the step of the grid halved ten times."""

    def gain(x: float) -> float:
        pop, shape = Normal(std=float(np.exp(x))), (64, 4096)
        eight, sixteen = (predicted_sqnr_db(pop, parse(f"e2m1:block{n}:{rule}"), shape) for n in BLOCKS)
        return (eight or 0.0) - (sixteen or 0.0)

    values = [gain(x) for x in sigma]
    turned = [k for k in range(len(values) - 1) if values[k] < 0 <= values[k + 1]]
    if not turned:
        return None
    low, high = float(sigma[turned[-1]]), float(sigma[turned[-1] + 1])
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))
