"""What GPTQ knows of the inputs: their second moments, and how the error of one column is made up for by the others.

Everything here runs on the host in float64. The last bits of a factor depend on the BLAS and its number of threads: so
links agree from machine to machine to a rounding of float32 where H is not close to singular, and not to the bit.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

_ROWS = 1024  # inputs that are widened to float64 at a time


def hessian(x: NDArray[np.floating]) -> Float[np.ndarray, "in in"]:
    """H = XᵀX / n of inputs X (n, in), float64: half the second derivative of the mean squared error of an output.

    The factor in front does not matter: GPTQ is the same for every multiple of H.

    >>> hessian(np.array([[1.0, 2.0], [3.0, 0.0]])).tolist()
    [[5.0, 1.0], [1.0, 2.0]]
    """
    total = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS].astype(np.float64)
        total += rows.T @ rows
    return total / len(x)


def damped(h: Float[np.ndarray, "in in"], damping: float) -> Float[np.ndarray, "in in"]:
    """H plus ``damping`` times its mean diagonal on the diagonal; a dead column, H[j,j] = 0, becomes one of unit H.

    The mean is that of the live columns. The released code of GPTQ puts ones on the diagonal of dead columns before it
    takes the mean, so that there the damping depends on the unit of the inputs.

    >>> damped(np.array([[4.0, 0.0], [0.0, 0.0]]), 0.5).tolist()
    [[6.0, 0.0], [0.0, 1.0]]
    """
    diagonal = np.diag(h)
    live = diagonal > 0
    out = h.copy()
    mean = diagonal[live].mean() if live.any() else 0.0
    np.fill_diagonal(out, np.where(live, diagonal + damping * mean, 1.0))
    return out


def links(h: Float[np.ndarray, "in in"]) -> Float[np.ndarray, "in in"]:
    """What an error of 1 in column j takes from each later column k, U[j,k] / U[j,j], float32, strictly upper.

    U is the upper Cholesky factor of the inverse of H, H⁻¹ = Uᵀ U. It is found without the inverse: with H = R Rᵀ for
    an upper R, which is a Cholesky factor in reversed order, U = R⁻¹.

    Raises:
        ValueError: if H is singular, or so nearly that its factor would be made of rounding errors.

    >>> links(np.array([[2.0, 1.0], [1.0, 2.0]])).tolist()
    [[0.0, -0.5], [0.0, 0.0]]
    """
    from scipy.linalg import get_lapack_funcs

    largest = float(np.diag(h).max())
    # a copy in reversed order, seen as columns, which for a symmetric matrix is the same: H = R Rᵀ is Mᵀ M there
    reversed_h = np.array(h[::-1, ::-1], order="C").T
    potrf, trtri = get_lapack_funcs(("potrf", "trtri"), (reversed_h,))
    m, failed = potrf(reversed_h, lower=0, clean=0, overwrite_a=1)
    if failed or not np.diag(m).min() ** 2 > len(h) * np.finfo(np.float64).eps * largest:
        raise ValueError(_singular(h))
    inverse, _ = trtri(m, lower=0, overwrite_c=1)
    u = inverse.T[::-1, ::-1]
    return np.triu((u / np.diag(u)[:, None]).astype(np.float32), 1)


def errs_more(
    w_hat: NDArray[np.floating], other: NDArray[np.floating], w: NDArray[np.floating], h: Float[np.ndarray, "in in"]
) -> bool:
    """Whether ``w_hat`` errs more in the outputs than ``other``, by tr(E H Eᵀ) of each.

    One product for both: with errors A and B the difference is tr((A - B) H (A + B)ᵀ). It is taken in float32, and
    where it lies within the bound of that product's rounding errors, n ε ‖H‖∞ Σ ‖a - b‖ ‖a + b‖ over the rows, again
    in float64.

    >>> errs_more(np.array([[1.0]]), np.array([[0.75]]), np.array([[0.5]]), np.array([[2.0]]))
    True
    """
    a, b = (v.astype(np.float64) - w.astype(np.float64) for v in (w_hat, other))
    minus, plus = a - b, a + b
    of_rows = np.linalg.norm(minus, axis=1) * np.linalg.norm(plus, axis=1)
    bound = len(h) * np.finfo(np.float32).eps * np.abs(h).sum(axis=1).max() * of_rows.sum()
    found = _traced(minus.astype(np.float32), h.astype(np.float32), plus.astype(np.float32))
    return (found if abs(found) > bound else _traced(minus, h, plus)) > 0


def _traced(a: NDArray[np.floating], h: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """tr(A H Bᵀ)."""
    return float(np.einsum("ij,ij->", a @ h, b, dtype=np.float64))


def _singular(h: Float[np.ndarray, "in in"]) -> str:
    return (
        f"the Hessian of {len(h)} inputs is singular: inputs are dependent, or fewer than there are columns; "
        "a damping above 0, such as 0.01, defines a result"
    )
