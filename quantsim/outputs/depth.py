"""Errors through many layers: a stack of random matrices beside copies of it with spoiled matrices."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from quantsim._types import Activations, Matrix
from quantsim.outputs.norms import rms_norm
from quantsim.outputs.products import product

#: What one layer makes of its input with its matrix.
Layer: TypeAlias = Callable[[Activations, Matrix], Activations]
#: Nonlinearity, element by element.
Elementwise: TypeAlias = Callable[[Activations], Activations]


def linear(x: Activations) -> Activations:
    """No nonlinearity: x itself."""
    return x


def plain_layer(h: Activations, w: Matrix, activation: Elementwise = linear) -> Activations:
    """``W f(h)``."""
    return product(activation(h), w)


def normalized_layer(h: Activations, w: Matrix, activation: Elementwise = linear) -> Activations:
    """``norm(W f(h))``, an RMSNorm behind each matrix."""
    return rms_norm(product(activation(h), w))


def residual_layer(h: Activations, w: Matrix, activation: Elementwise = linear) -> Activations:
    """``h + W f(norm(h))``, a pre-norm branch beside the identity."""
    return h + product(activation(rms_norm(h)), w)


class StackSums(NamedTuple):
    """Sums over tokens and channels after each layer.

    Attributes:
        squared_outputs: of the true stack.
        squared_errors: of each spoiled one, by its name.
    """

    squared_outputs: Float[Array, " layers"]
    squared_errors: dict[str, Float[Array, " layers"]]


def stack_errors(
    layer: Layer,
    weights: Callable[[Int[Array, ""]], Matrix],
    *,
    spoiled: Callable[[Matrix, Int[Array, ""]], dict[str, Matrix]],
    inputs: Activations,
    layers: int,
) -> StackSums:
    """Errors after each layer of stacks whose matrices are spoiled, relative to nothing yet: sums of squares.

    All stacks begin with the same inputs. One scan over the layers, so programs do not grow with the depth, and no
    matrix outlives its layer. Pure: inside ``jit`` and ``vmap`` as outside.

    Args:
        layer: what one layer makes of its input (batch, in) with its matrix, for example ``residual_layer``.
        weights: matrix (in, in) of the layer of a number, from 0.
        spoiled: by name, what becomes of a matrix in the layer of that number.
        inputs: activations (batch, in).
        layers: how many.

    >>> found = stack_errors(
    ...     plain_layer,
    ...     lambda number: jnp.eye(2),
    ...     spoiled=lambda w, number: {"doubled": 2.0 * w},
    ...     inputs=jnp.ones((1, 2)),
    ...     layers=3,
    ... )
    >>> found.squared_outputs.tolist(), found.squared_errors["doubled"].tolist()  # 2 (2^L - 1)^2
    ([2.0, 2.0, 2.0], [2.0, 18.0, 98.0])
    """

    def one(states: tuple[Activations, dict[str, Activations]], number: Int[Array, ""]) -> Any:
        h, off = states
        w = weights(number)
        h = layer(h, w)
        off = {name: layer(off[name], w_hat) for name, w_hat in spoiled(w, number).items()}
        sums = StackSums(jnp.sum(h * h), {name: jnp.sum((there - h) ** 2) for name, there in off.items()})
        return (h, off), sums

    numbers = jnp.arange(layers)
    names = jax.eval_shape(lambda: spoiled(weights(numbers[0]), numbers[0]))
    return jax.lax.scan(one, (inputs, dict.fromkeys(names, inputs)), numbers)[1]
