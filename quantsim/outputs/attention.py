"""Errors of attention, softmax(Q Kᵀ / sqrt(width)) V: how far its weights move, and what that does to its outputs.

Arrays are (heads, tokens, width). A quantizer such as "int8:channel" gives each head a scale, "int8:block64" each token
of a head 64 wide. A head is the unit that standard errors are taken over.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import ArrayLike, Weights
from quantsim.measure.ratios import columns, ratio, root_ratio
from quantsim.measure.tallies import error
from quantsim.numerics.divergence import divergence
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse

Queries: TypeAlias = Float[Array, "heads queries width"]
Keys: TypeAlias = Float[Array, "heads keys width"]
Values: TypeAlias = Float[Array, "heads keys value_width"]
Logits: TypeAlias = Float[Array, "heads queries keys"]
PerHead: TypeAlias = Float[Array, " heads"]
_SMALL = 1.0  # nats: changes of log p below it are expanded around zero, where their effects would cancel


@dataclass(frozen=True)
class AttentionQuantizers:
    """What is quantized on the way, each by a quantizer or its spec; None is left as it is."""

    queries: AbstractQuantizer | str | None = None
    keys: AbstractQuantizer | str | None = None
    values: AbstractQuantizer | str | None = None
    logits: AbstractQuantizer | str | None = None


@dataclass(frozen=True)
class AttentionError:
    """How attention changes, each number with its standard error over the heads (NaN for one).

    Attributes:
        kl: mean Kullback-Leibler divergence of the changed attention from the true one, E_p log(p / p̂), in nats.
        kl_se: its standard error.
        tv: mean total variation, the share of the attention that goes elsewhere, sum |p̂ - p| / 2.
        tv_se: its standard error.
        flips: share of the queries whose largest logit is that of another key.
        flips_se: its standard error.
        rel_rms: ||error|| / ||output|| of the outputs.
        rel_rms_se: its standard error.
        logit_rms: root mean square change of the logits.
        logit_rms_se: its standard error.
    """

    kl: float
    kl_se: float
    tv: float
    tv_se: float
    flips: float
    flips_se: float
    rel_rms: float
    rel_rms_se: float
    logit_rms: float
    logit_rms_se: float


def attention_error(
    queries: ArrayLike, keys: ArrayLike, values: ArrayLike, quantizers: AttentionQuantizers
) -> AttentionError:
    """Change of attention when queries, keys, values or logits are quantized.

    Args:
        queries: Q, (heads, queries, width).
        keys: K, (heads, keys, width).
        values: V, (heads, keys, value width).
        quantizers: what is quantized, and how.

    Raises:
        ValueError: if the shapes do not fit, and for a NaN or infinity.

    >>> import quantsim as qs
    >>> q, k, v = (qs.populations.Normal().sample(qs.populations.key(n), (4, 64, 32)) for n in range(3))
    >>> e = attention_error(q, k, v, AttentionQuantizers(queries="int8:channel", keys="int8:channel"))
    >>> e.tv < 0.01, e.rel_rms < 0.02, 0.01 < e.logit_rms < 0.02
    (True, True, True)
    """
    given = {"queries": queries, "keys": keys, "values": values}
    q, k, v = (as_weights(a, what=name) for name, a in given.items())
    shapes = q.shape, k.shape, v.shape
    if {len(s) for s in shapes} != {3} or len({s[0] for s in shapes}) > 1 or q.shape[2] != k.shape[2]:
        raise ValueError(f"queries and keys (heads, tokens, width) and values do not fit: {shapes}")
    if k.shape[1] != v.shape[1] or not all(map(all, shapes)):
        raise ValueError(f"there is one value for each key, and at least one, got {shapes}")
    q_hat, k_hat, v_hat = (
        _approximated(a, getattr(quantizers, name)) for a, name in zip((q, k, v), given, strict=True)
    )
    logits, errors = logits_and_errors(q, q_hat, k, k_hat)
    if quantizers.logits is not None:
        errors = error(logits, _approximated(logits + errors, quantizers.logits))
    return summarize_attention(attention_sums(logits, errors, v, error(v, v_hat)))


def _approximated(a: Weights, q: AbstractQuantizer | str | None) -> Weights:
    return a if q is None else parse(q).roundtrip(a)


# --- sums -----------------------------------------------------------------------------------------------------------


class AttentionSums(NamedTuple):
    """Sums over the queries of each head.

    Attributes:
        kl: Kullback-Leibler divergences, in nats.
        tv: total variations.
        flips: queries whose largest logit is that of another key.
        squared_errors: squared norms of the output errors.
        squared_outputs: squared norms of the outputs.
        squared_logit_errors: sum over the keys, too.
        queries: how many.
        logits: how many.
    """

    kl: PerHead
    tv: PerHead
    flips: PerHead
    squared_errors: PerHead
    squared_outputs: PerHead
    squared_logit_errors: PerHead
    queries: PerHead
    logits: PerHead


@jax.jit
def logits_and_errors(queries: Queries, queries_hat: Queries, keys: Keys, keys_hat: Keys) -> tuple[Logits, Logits]:
    """Q Kᵀ / sqrt(width), and how it changes, ``(dQ K̂ᵀ + Q dKᵀ) / sqrt(width)``: products of errors, no difference."""

    def one(head: tuple[Array, ...]) -> tuple[Array, Array]:
        q, q_hat, k, k_hat = head
        root = jnp.sqrt(jnp.float32(q.shape[-1]))
        change = product(error(q, q_hat), k_hat) + product(q, error(k, k_hat))
        return product(q, k) / root, change / root

    return lax.map(one, (queries, queries_hat, keys, keys_hat))


@jax.jit
def attention_sums(logits: Logits, errors: Logits, values: Values, value_errors: Values) -> AttentionSums:
    """What logits + errors, and values + value errors, change; exact to float32 rounding for small errors as for large.

    With the errors d less their mean under p, ``KL = log E_p exp(d)`` and ``p̂ - p = p (exp(d - KL) - 1)``. The error of
    an output is ``(p̂ - p) V + p̂ dV``.
    """
    return lax.map(lambda head: _of_head(*head), (logits, errors, values, value_errors))


def _of_head(z: Array, d: Array, values: Array, value_errors: Array) -> AttentionSums:
    log_p, x, kl = divergence(z, d)
    p = jnp.exp(log_p)
    p_hat, by = jnp.exp(log_p + x - kl), x - kl
    change = jnp.where(by < _SMALL, p * jnp.expm1(jnp.minimum(by, _SMALL)), p_hat - p)
    outputs, output_errors = product(p, values.T), product(change, values.T) + product(p_hat, value_errors.T)
    return AttentionSums(
        kl=jnp.sum(kl),
        tv=jnp.sum(jnp.abs(change)) / 2,
        flips=jnp.sum(jnp.argmax(z, axis=-1) != jnp.argmax(z + d, axis=-1)).astype(jnp.float32),
        squared_errors=jnp.sum(output_errors**2),
        squared_outputs=jnp.sum(outputs**2),
        squared_logit_errors=jnp.sum(d * d),
        queries=jnp.float32(z.shape[0]),
        logits=jnp.float32(z.size),
    )


def summarize_attention(sums: AttentionSums) -> AttentionError:
    """Means and ratios of ``attention_sums``, the heads being the independent units."""
    return AttentionError(
        **columns(
            kl=ratio(sums.kl, sums.queries),
            tv=ratio(sums.tv, sums.queries),
            flips=ratio(sums.flips, sums.queries),
            rel_rms=root_ratio(sums.squared_errors, sums.squared_outputs),
            logit_rms=root_ratio(sums.squared_logit_errors, sums.logits),
        )
    )
