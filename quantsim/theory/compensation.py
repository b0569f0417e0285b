"""What rounding in turn must leave of the output error, when later weights make up for the errors of earlier ones.

Model of GPTQ: each column is off by an error of its own, of one size and unrelated to the others, as those of fine
steps are; all that it does to the outputs is fitted away by the columns that are not rounded yet.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

F64: TypeAlias = NDArray[np.float64]


def compensated_output_mse(
    input_second_moment: ArrayLike, error_mse: float, *, order: ArrayLike | None = None, damping: float = 0.0
) -> float:
    """Mean squared output error after compensation, ``mse · sum_j Var(x_j | x_k, k behind j)`` without damping.

    What is left of an error in column j is the part of x_j that later inputs do not predict. The product of these
    variances is det S whatever the order, so that their sum is least where they are all alike: the natural order of an
    autoregressive process has it, ``(n - 1) (1 - rho²) + 1``, and no other order is better. With damping the fit is
    that of S + damping · mean(diag S) I, and its errors on S are what is counted.

    Args:
        input_second_moment: S = E[x xᵀ], (in, in).
        error_mse: E[e²] of the rounding of each weight.
        order: which column is rounded first, and so on; as they stand if not given.
        damping: part of the mean diagonal that is added to the diagonal before the fit.

    Raises:
        ValueError: if S is no square matrix or, damping included, singular.

    Source: the recursion of Frantar et al., arXiv:2210.17323, read as a regression on the columns behind.

    >>> s = 0.9 ** abs(np.arange(64)[:, None] - np.arange(64))
    >>> float(round(compensated_output_mse(s, 1.0), 9)), round(63 * (1 - 0.9**2) + 1, 9)
    (12.97, 12.97)
    >>> compensated_output_mse(s, 1.0, order=np.random.default_rng(0).permutation(64)) > 12.97
    True
    """
    from scipy.linalg import cholesky, solve_triangular

    s = np.asarray(input_second_moment, np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1]:
        raise ValueError(f"a second moment is an (in, in) matrix, got {s.shape}")
    if order is not None:
        at = np.asarray(order)
        s = s[np.ix_(at, at)]
    used = s + damping * np.diag(s).mean() * np.eye(len(s))
    try:
        r = cholesky(used[::-1, ::-1], lower=True)[::-1, ::-1]  # S = R Rᵀ, R upper
    except np.linalg.LinAlgError:
        raise ValueError("the second moment is singular: no fit on later inputs without damping") from None
    through = np.diag(r)[:, None] * solve_triangular(r, np.eye(len(s)))  # row j: 1, less the fit
    return float(error_mse * np.einsum("ji,ik,jk->", through, s, through, optimize=True))


def fitted_on_tokens(fan_in: int, tokens: int) -> tuple[float, float]:
    """How much of the compensated error n tokens show, and how much others have: factors of ``compensated_output_mse``.

    A column with k others behind it is a regression on k normal inputs: the tokens that it is fitted on show
    ``1 - k / n`` of the residual variance, fresh ones ``1 + k / (n - k - 1)``. Means over the columns; exact where all
    residual variances are alike, as those of white and of autoregressive inputs are.

    Args:
        fan_in: number of columns.
        tokens: n, more than ``fan_in``.

    Raises:
        ValueError: for too few tokens, of which there is no fit without damping.

    >>> [round(factor, 3) for factor in fitted_on_tokens(256, 512)]
    [0.751, 1.386]
    """
    if not 1 <= fan_in < tokens:
        raise ValueError(f"a fit takes more tokens than inputs, got {tokens} tokens and a fan-in of {fan_in}")
    behind = np.arange(fan_in)
    return float(np.mean(1 - behind / tokens)), float(np.mean(1 + behind / (tokens - behind - 1)))
