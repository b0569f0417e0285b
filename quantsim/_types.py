"""The vocabulary: one name for each thing that is passed around, and the glossary of the field's terms.

quantize
    Map weights to *codes*, small integers or bit patterns, and a *scale*; dequantize maps back.
format
    What one code can mean: the set of *levels* (``int8``, ``e4m3``, ``nf4``).
scale, zero point
    ``w_hat = (code - zero_point) * scale``; a symmetric quantizer has no zero point.
block, channel, tensor
    The weights that share one scale: consecutive inputs of a row, a whole output row, everything.
calibration
    The rule that finds the scale from the weights of a block (absmax, percentile, ...).
step
    The distance of two neighbouring levels, in units of the weights; for integers it is the scale.
crest factor
    Largest magnitude over root mean square of a block: what an absmax scale pays for.
SQNR
    Signal to quantization-noise ratio, ``10 log10(sum w^2 / sum e^2)`` in dB, with ``e = w_hat - w``.
codebook
    Levels that follow no arithmetic rule, listed one by one.
fan-in
    Number of inputs that one output sums over: the last axis of a weight matrix ``(out, in)``.
"""

from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key

_Scalar = TypeVar("_Scalar", bound=np.generic, covariant=True)
#: ``numpy.typing.NDArray`` for ``Float[NDArray, …]``: that of NumPy 2.5 is an alias that jaxtyping cannot take apart.
NDArray: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[_Scalar]]

Weights: TypeAlias = Float[Array, "..."]
Matrix: TypeAlias = Float[Array, "out in"]
Activations: TypeAlias = Float[Array, "batch in"]
Blocks: TypeAlias = Float[Array, "blocks size"]
PerBlock: TypeAlias = Float[Array, "blocks 1"]
TensorScale: TypeAlias = Float[Array | np.ndarray, ""]
Codes: TypeAlias = Integer[Array, "..."]
Scale: TypeAlias = Float[Array, "..."]
ZeroPoint: TypeAlias = Int[Array, "..."]
PRNGKey: TypeAlias = Key[Array, ""]
Shape: TypeAlias = tuple[int, ...]
Number: TypeAlias = float | int | np.floating | Float[Array, ""]  # a parameter; a JAX scalar where a sweep traces it
ArrayLike: TypeAlias = jax.Array | np.ndarray | np.generic | list | tuple | float | int
