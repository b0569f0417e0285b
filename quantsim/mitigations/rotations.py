"""Rotations: inputs and weights in other orthogonal coordinates, in which no channel stands out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from quantsim._types import PRNGKey
from quantsim.mitigations.layer import Layer, Mitigated, Rotation
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import BITS_OF_A_HALF
from quantsim.numerics import hadamard
from quantsim.numerics.hadamard import regular, require_size, sylvester
from quantsim.quantizer.face import AbstractQuantizer


def random_orthogonal(size: int, key: PRNGKey) -> Float[Array, "size size"]:
    """An orthogonal matrix, uniform among all: Q of a QR of normal numbers, with the signs of the diagonal of R.

    Source: Mezzadri, arXiv:math-ph/0609050.
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (size, size)))
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None]


KINDS, SIGNS = (*hadamard.KINDS, "random"), ("none", "random")


@mitigation("block", kind=KINDS, signs=SIGNS, block=(0, 2**16))
def rotation(
    layer: Layer,
    q: AbstractQuantizer,
    *,
    key: PRNGKey | None = None,
    kind: str = "sylvester",
    block: int = 0,
    signs: str = "none",
) -> Mitigated:
    """Inputs and weights times an orthogonal R in each block of inputs: ``x' = (x signs) R``, ``w' = (w signs) R``.

    Without quantization nothing changes, as x' w'ᵀ = x wᵀ. A spike A in a block of g becomes A / sqrt(g) everywhere.
    Hadamard matrices are known and cost nothing; random signs are charged a bit for each input, a random matrix 16 bits
    for each entry.

    Args:
        layer: weights (out, in) and calibration inputs, which are not looked at.
        q: quantizer of the weights.
        key: for random signs and matrices.
        kind: "sylvester", "regular", which keeps constant rows, or "random".
        block: how many inputs are rotated together; 0 for all. 12288 inputs have Hadamard blocks of up to 4096.
        signs: "random" flips inputs before.

    Raises:
        ValueError: for a block that does not divide the inputs or has no such matrix, and for a missing key.

    Source: Chee et al., arXiv:2307.13304 (random), Ashkboos et al., arXiv:2404.00456 (Hadamard).
    """
    fan_in = layer.weights.shape[1]
    size = block or fan_in
    require_size(kind, size, fan_in)
    if key is None and "random" in (kind, signs):
        raise ValueError("a random rotation needs a key: pass key=jax.random.key(seed)")
    turn = Rotation(_signs(signs, fan_in, key), _matrix(kind, size, key))
    bits = (fan_in if signs == "random" else 0) + (BITS_OF_A_HALF * size**2 if kind == "random" else 0)
    weights = q.roundtrip(turn.apply(layer.weights))
    return Mitigated(weights, jnp.float32(bits), rotation=turn)


def _signs(signs: str, fan_in: int, key: PRNGKey | None) -> Float[Array, " in"]:
    if signs == "none" or key is None:
        return jnp.ones(fan_in)
    return jax.random.rademacher(jax.random.fold_in(key, 0), (fan_in,), jnp.float32)


def _matrix(kind: str, size: int, key: PRNGKey | None) -> Float[Array, "size size"]:
    if kind == "random" and key is not None:
        return random_orthogonal(size, jax.random.fold_in(key, 1))
    return jnp.asarray(sylvester(size) if kind == "sylvester" else regular(size), jnp.float32)
