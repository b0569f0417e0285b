"""Rotations: inputs and weights in other orthogonal coordinates, in which no channel stands out."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import PRNGKey
from quantsim.mitigations.layer import Layer, Mitigated, Rotation
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import BITS_OF_A_HALF
from quantsim.quantizer.face import AbstractQuantizer

_PAIR = np.array([[1, 1], [1, -1]], np.float64)
_REGULAR = 1 - 2 * np.fliplr(np.eye(4))  # -1 on one diagonal: every row and every column sums to 2


def sylvester(size: int) -> Float[np.ndarray, "size size"]:
    """Hadamard matrix over sqrt(size), by doubling: H -> [[H, H], [H, -H]].

    Its first column is constant, so the coordinates of a constant row are sqrt(size) and zeros: it is amplified.

    Raises:
        ValueError: if the size is no power of two.

    Source: Sylvester, Phil. Mag. 34 (1867).

    >>> sylvester(4)[1].tolist()
    [0.5, -0.5, 0.5, -0.5]
    """
    return _kronecker_power(_PAIR, size, "sylvester")


def regular(size: int) -> Float[np.ndarray, "size size"]:
    """Hadamard matrix over sqrt(size), whose rows and columns all sum to 1: a constant row stays as it is.

    Kronecker powers of the regular one of four rows.

    Raises:
        ValueError: if the size is no power of four.

    Source: Wallis, Street and Wallis, Combinatorics: Room Squares, Sum-Free Sets, Hadamard Matrices (1972).

    >>> regular(16).sum(axis=0).tolist() == [1.0] * 16
    True
    """
    return _kronecker_power(_REGULAR, size, "regular")


def random_orthogonal(size: int, key: PRNGKey) -> Float[Array, "size size"]:
    """An orthogonal matrix, uniform among all: Q of a QR of normal numbers, with the signs of the diagonal of R.

    Source: Mezzadri, arXiv:math-ph/0609050.
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (size, size)))
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None]


def _kronecker_power(one: Float[np.ndarray, "n n"], size: int, name: str) -> Float[np.ndarray, "size size"]:
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.kron(one, matrix)
    if matrix.shape[0] != size:
        raise ValueError(f"a {name} Hadamard matrix has a size that is a power of {len(one)}, not {size}")
    return matrix / np.sqrt(size)


_POWERS = {"sylvester": 2, "regular": 4}
KINDS, SIGNS = ("sylvester", "regular", "random"), ("none", "random")


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
    _require_size(kind, size, fan_in)
    if key is None and "random" in (kind, signs):
        raise ValueError("a random rotation needs a key: pass key=jax.random.key(seed)")
    turn = Rotation(_signs(signs, fan_in, key), _matrix(kind, size, key))
    bits = (fan_in if signs == "random" else 0) + (BITS_OF_A_HALF * size**2 if kind == "random" else 0)
    weights = q.roundtrip(turn.apply(layer.weights))
    return Mitigated(weights, jnp.float32(bits), rotation=turn)


def _require_size(kind: str, size: int, fan_in: int) -> None:
    base = _POWERS.get(kind, size)
    power = base ** round(np.log(size) / np.log(base)) if size > 1 else 1
    if fan_in % size == 0 and power == size:
        return
    largest = 1
    while kind in _POWERS and fan_in % (largest * base) == 0:
        largest *= base
    want = f"a power of {base} that" if kind in _POWERS else "a number that"
    hint = f"; the largest is {largest}: pass block={largest}" if kind in _POWERS else ""
    raise ValueError(f"blocks of a {kind} rotation have {want} divides the {fan_in} inputs, not {size}{hint}")


def _signs(signs: str, fan_in: int, key: PRNGKey | None) -> Float[Array, " in"]:
    if signs == "none" or key is None:
        return jnp.ones(fan_in)
    return jax.random.rademacher(jax.random.fold_in(key, 0), (fan_in,), jnp.float32)


def _matrix(kind: str, size: int, key: PRNGKey | None) -> Float[Array, "size size"]:
    if kind == "random" and key is not None:
        return random_orthogonal(size, jax.random.fold_in(key, 1))
    return jnp.asarray(sylvester(size) if kind == "sylvester" else regular(size), jnp.float32)
