"""GPTQ: columns are rounded one after the other, and those not yet rounded make up for the error."""

from math import ceil, log2

import jax.numpy as jnp
import numpy as np

from quantsim.granularity import Block, Channel, Tensor
from quantsim.mitigations.compensation import Plan, rounded_in_turn
from quantsim.mitigations.hessian import damped, errs_more, hessian, links
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import on_host
from quantsim.quantizer import Quantizer
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.structure import parted

ORDERINGS = ("none", "activation")
SCALES = ("group", "block", "static")
LARGEST = float(np.finfo(np.float64).max)


@on_host(damping=(0.0, LARGEST), ordering=ORDERINGS, scales=SCALES, lazy=(1, LARGEST))
def gptq(
    layer: Layer,
    q: AbstractQuantizer,
    *,
    damping: float = 0.01,
    ordering: str = "none",
    scales: str = "group",
    lazy: int = 128,
) -> Mitigated:
    """Round the columns of W in turn; after each, w_k -= (w_j - ŵ_j) U[j,k] / U[j,j] for all columns k behind.

    U is the upper Cholesky factor of the inverse of H = XᵀX / n + damping mean(diag) I, H⁻¹ = Uᵀ U. So the later
    columns always stand where the mean squared output error is least, given what is rounded already. The factor is
    computed in float64 on the host, the rest in one compiled program. An input that is 0 in all of X (H[j,j] = 0,
    exactly) is dead: its column is rounded to nearest, neither compensated nor compensating.

    Rounding to nearest is always a candidate, kept where it errs less on X: so on its calibration inputs the result is
    never worse. It happens where there is little to compensate, and blocks are of other columns or of moved weights.

    Args:
        layer: weights and the inputs to calibrate on.
        q: a scaled quantizer; its scales are shared along rows (tensor, channel, block along the last axis), or a cast.
        damping: part of the mean diagonal of H that is added to the diagonal.
        ordering: "none", or "activation": columns by falling H[j,j]. Blocks found in the loop are then of columns in
            that order, and the block of each column is stored, in ceil(log2(blocks)) bits.
        scales: when the scale of a block is found. "group": from the compensated weights, when its first column is
            reached; "block": the same, but from the weights as they stood when the lazy block began, without updates
            that are pending in it; "static": from the weights before any compensation. Scales of a tensor or a channel
            are static.
        lazy: columns after which errors are handed on to all columns behind; the nearest multiple of the block's size
            below is taken, at least one block. It changes nothing but roundings of float32, except with "block".

    Returns:
        ``found`` counts ``dead`` columns, and ``saturated`` weights: those rounded from more than half a
            step out of the range of their scale; and says whether rounding to ``nearest`` was kept.

    Raises:
        ValueError: for another quantizer, stochastic rounding, options out of range, shapes that do not fit, and for a
            singular H without damping.

    An ordering pays where inputs differ in size or share few directions (the study ``mitigations`` measures it).

    Source: Frantar et al., arXiv:2210.17323; the orders, "block" and "static" are in code in use, not in the paper.

    >>> x = np.array([[1.0, 1.0], [1.0, 0.9]])
    >>> gptq(Layer(np.array([[1.0, 0.4]]), x), "int2:channel", damping=0.0).weights.tolist()
    [[1.0, 0.0]]
    """
    if not isinstance(q, Quantizer):
        raise ValueError(f"gptq takes scaled elements such as int4:block128, a column at a time; not {q}")
    if message := _refusal(q):
        raise ValueError(message)
    w, x = layer.weights, layer.inputs
    h = hessian(np.asarray(x))
    dead = np.diag(h) == 0
    order = np.argsort(-np.diag(h), kind="stable") if ordering == "activation" else np.arange(len(h))
    plan = plan_of(q, scales, lazy, w.shape[1])
    certain = damped(h, damping)
    link = links(certain[np.ix_(order, order)] if ordering == "activation" else certain)
    done = rounded_in_turn(*parted(q), w, jnp.asarray(link), jnp.asarray(order, jnp.int32), plan)
    plain = q.roundtrip(w)
    if errs_more(np.asarray(done.weights), np.asarray(plain), np.asarray(w), h):
        saturated = jnp.sum(q.clipped(w), dtype=jnp.int32)
        found = {"dead": jnp.int32(dead.sum()), "saturated": saturated, "nearest": jnp.bool_(True)}
        return Mitigated(plain, jnp.float32(0), found=found)
    extra = _index_bits(plan, w.shape[1]) if ordering == "activation" else 0
    found = {"dead": jnp.int32(dead.sum()), "saturated": done.saturated, "nearest": jnp.bool_(False)}
    return Mitigated(done.weights, jnp.float32(extra), found=found)


def plan_of(q: Quantizer, scales: str, lazy: int, columns: int) -> Plan:
    """Sizes for the loop: a lazy block is some whole blocks."""
    lazy = min(lazy, columns)
    if not isinstance(q.granularity, Block) or scales == "static":
        return Plan(lazy, lazy, "static")
    size = min(q.granularity.size, columns)
    return Plan(size, max(lazy // size, 1) * size, scales)


def _index_bits(plan: Plan, columns: int) -> int:
    """Bits that say to which block each column belongs, where blocks are no neighbours."""
    return 0 if plan.scales == "static" else columns * ceil(log2(-(-columns // plan.size)))


def _refusal(q: Quantizer) -> str | None:
    """Why a quantizer of scaled elements is none for GPTQ."""
    if q.rounding == "stochastic":
        return f"gptq rounds to the nearest level, not at random: {q} without ':stochastic'"
    if q.two_level:
        return f"gptq takes scales of blocks alone, found as their columns are reached: {q} has one of the tensor, too"
    g = q.granularity
    along_rows = g is None or isinstance(g, Tensor)
    along_rows |= isinstance(g, Channel) and g.axis in (0, -2)
    along_rows |= isinstance(g, Block) and g.axis in (1, -1)
    return None if along_rows else f"gptq takes scales that are shared along a row of weights (out, in), not {q}"
