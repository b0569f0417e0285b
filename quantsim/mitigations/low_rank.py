"""A low-rank branch in 16 bits beside the quantized weights."""

import jax.numpy as jnp

from quantsim._types import Matrix
from quantsim.mitigations.layer import Branch, Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import BITS_OF_A_HALF, half
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer

TAKEN_FROM = ("weights", "residual")


def truncated(a: Matrix, rank: int) -> Branch:
    """The matrix of this rank nearest to ``a``, as two factors in float16 with equal singular values.

    Source: Eckart and Young, Psychometrika 1 (1936).
    """
    u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    root = jnp.sqrt(s[:rank])
    return Branch(down=half(root[:, None] * vt[:rank]), up=half(u[:, :rank] * root[None]))


@mitigation("rank", rank=(1, 2**16), of=TAKEN_FROM)
def low_rank(layer: Layer, q: AbstractQuantizer, *, rank: int = 16, of: str = "weights") -> Mitigated:
    """Outputs Q(x) Q(W - L)ᵀ + x Lᵀ with L of low rank; or, with Q(W) as it was, L of the error W - Q(W).

    L is the best approximation of that rank, by singular values, and takes part with inputs that are not quantized. Its
    rank (in + out) numbers are charged 16 bits each.

    Args:
        layer: weights (out, in); the inputs are not looked at.
        q: quantizer of the rest.
        rank: of the branch, at most min(out, in).
        of: "weights", a branch taken off before quantization; "residual", a branch of what quantization lost.

    Raises:
        ValueError: for a rank that the matrix does not have.

    Source: Li et al., arXiv:2411.05007 (weights); Yao et al., arXiv:2303.08302 (residual).
    """
    w = layer.weights
    if rank > min(w.shape):
        raise ValueError(f"a branch beside weights {w.shape} has a rank of at most {min(w.shape)}, not {rank}")
    bits = jnp.float32(BITS_OF_A_HALF * rank * sum(w.shape))
    if of == "residual":
        weights = q.roundtrip(w)
        return Mitigated(weights, bits, branch=truncated(w - weights, rank))
    branch = truncated(w, rank)
    return Mitigated(q.roundtrip(w - product(branch.up, branch.down.T)), bits, branch=branch)
