"""A linear layer before and after a mitigation: one type in, one type out, whatever the mitigation."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from quantsim._types import Activations, ArrayLike, Matrix, PRNGKey
from quantsim.mitigations.stored import half
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.static import Static
from quantsim.quantizer.structure import parted, rebuild_quantizer

Outputs = Float[Array, "batch out"]


@partial(jax.tree_util.register_dataclass, data_fields=["weights", "inputs"], meta_fields=[])
@dataclass(frozen=True)
class Layer:
    """A linear layer y = x Wᵀ, and inputs that a mitigation may be calibrated on.

    Attributes:
        weights: W, (out, in).
        inputs: X, (tokens, in).
    """

    weights: Matrix | Any
    inputs: Activations | Any


@partial(jax.tree_util.register_dataclass, data_fields=["signs", "matrix"], meta_fields=[])
@dataclass(frozen=True)
class Rotation:
    """An orthogonal change of the coordinates of the inputs, block by block: x' = (x · signs) R in each block.

    Attributes:
        signs: 1 or -1 for each input.
        matrix: R, orthogonal, (size, size); its size divides the number of inputs.
    """

    signs: Float[Array, " in"] | Any
    matrix: Float[Array, "size size"] | Any

    def apply(self, x: Float[Array, "rows in"]) -> Float[Array, "rows in"]:
        """Rows in the new coordinates: inputs and weights alike, as x' w'ᵀ = x wᵀ."""
        size = self.matrix.shape[0]
        blocks = (x * self.signs[None]).reshape(-1, size)
        return jnp.matmul(blocks, self.matrix, precision=jax.lax.Precision.HIGHEST).reshape(x.shape)


@partial(jax.tree_util.register_dataclass, data_fields=["down", "up"], meta_fields=[])
@dataclass(frozen=True)
class Branch:
    """A low-rank product beside the quantized one, y += (x' downᵀ) upᵀ, of inputs that are not quantized.

    Attributes:
        down: (rank, in).
        up: (out, rank).
    """

    down: Float[Array, "rank in"] | Any
    up: Float[Array, "out rank"] | Any


_DATA = ["weights", "extra_bits", "divided_by", "rotation", "apart", "branch", "bias", "found"]


@partial(jax.tree_util.register_dataclass, data_fields=_DATA, meta_fields=[])
@dataclass(frozen=True)
class Mitigated:
    """What a mitigation makes of a layer: weights as its product uses them, what happens to its inputs, what it stores.

    y = Q(x') Ŵᵀ + branch + bias, with x' = rotation(x / divided_by), and Q the quantizer of the activations, if any.

    Attributes:
        weights: Ŵ, dequantized, (out, in), in the coordinates of x'.
        extra_bits: stored beside what the quantizer stores for a matrix of this shape, for the whole matrix; negative
            where something is stored in its place.
        divided_by: a positive number for each input channel, or None.
        rotation: of the inputs that are divided, or None.
        apart: input channels that are not quantized, but take part as float16, or None.
        branch: a low-rank product beside, or None.
        bias: added to each output, or None.
        found: what the mitigation has to say beside: counts, what a search chose.
    """

    weights: Matrix | Any
    extra_bits: Float[Array, ""] | Any
    divided_by: Float[Array, " in"] | Any | None = None
    rotation: Rotation | Any | None = None
    apart: Bool[Array, " in"] | Any | None = None
    branch: Branch | Any | None = None
    bias: Float[Array, " out"] | Any | None = None
    found: dict[str, Num[Array, "..."] | Any] = field(default_factory=dict)

    def transformed(self, x: Activations) -> Activations:
        """x', before anything is quantized."""
        divided = x if self.divided_by is None else x / self.divided_by[None]
        return divided if self.rotation is None else self.rotation.apply(divided)

    def quantized_part(self, x: Activations) -> Activations:
        """X' as a quantizer of activations sees it, and as ``static`` calibrates one: zero where channels are apart."""
        x = self.transformed(x)
        return x if self.apart is None else jnp.where(self.apart[None], 0.0, x)

    def outputs(
        self, x: ArrayLike, activations: AbstractQuantizer | Static | str | None = None, *, key: PRNGKey | None = None
    ) -> Outputs:
        """The outputs of the layer for inputs ``x`` (batch, in), in float32.

        Args:
            x: inputs, as the layer without mitigation gets them.
            activations: quantizer of the inputs, or its spec: "int8:channel" has a scale for each token; or a static
                one, ``static("int8:tensor", mitigated.quantized_part(calibration))``.
            key: for stochastic rounding of the activations.

        Raises:
            ValueError: if the inputs do not fit the weights, and for a NaN or infinity.
        """
        x = as_weights(x, what="inputs")
        if x.ndim != 2 or x.shape[1] != self.weights.shape[1]:
            raise ValueError(f"inputs (batch, in) do not fit weights {self.weights.shape} (out, in): {x.shape}")
        if activations is None or isinstance(activations, Static):
            return _outputs(None, activations, self, x, key)
        return _outputs(*parted(parse(activations)), self, x, key)

    def bits_per_weight(self, q: AbstractQuantizer | str) -> float:
        """Everything that is stored, over the number of weights, where ``q`` is the quantizer that was passed in."""
        shape = self.weights.shape
        return parse(q).bits_per_weight(shape) + float(self.extra_bits) / (shape[0] * shape[1])


@partial(jax.jit, static_argnums=0)
def _outputs(structure: Any, given: Any, m: Mitigated, x: Activations, key: PRNGKey | None) -> Outputs:
    """``given`` are the numbers of a quantizer of the structure; without one, a static quantizer or None."""
    q = given if structure is None else rebuild_quantizer(structure, given)
    changed = m.transformed(x)
    used = changed
    if q is not None:
        used = q.roundtrip(m.quantized_part(x), key=key)
        if m.apart is not None:
            used = used + jnp.where(m.apart[None], half(changed), 0.0)
    y = product(used, m.weights)
    if m.branch is not None:
        y = y + product(product(changed, m.branch.down), m.branch.up)
    return y if m.bias is None else y + m.bias[None]
