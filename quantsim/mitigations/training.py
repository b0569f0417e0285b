"""Straight-through training (QAT) of one linear layer: weights that are good after they are quantized."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from quantsim._types import Activations, Matrix, Number
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer

_POWER_STEPS = 16


def curvature(x: Activations) -> Float[Array, ""]:
    """Largest eigenvalue of Xᵀ X / tokens, by power iteration from the row sums; a little less than that.

    >>> round(curvature(jnp.diag(jnp.array([3.0, 1.0]))).item(), 3)
    4.5
    """

    def applied(v: Float[Array, "1 in"]) -> Float[Array, "1 in"]:
        return jnp.sum(product(x, v) * x, axis=0, keepdims=True) / x.shape[0]

    def step(_: Int32[Array, ""] | int, v: Float[Array, "1 in"]) -> Float[Array, "1 in"]:
        new = applied(v)
        return new / jnp.maximum(jnp.linalg.norm(new), jnp.finfo(jnp.float32).tiny)

    start = jnp.sum(jnp.abs(x), axis=0, keepdims=True)
    return jnp.linalg.norm(applied(lax.fori_loop(0, _POWER_STEPS, step, step(0, start))))


@mitigation("steps", steps=(1, 100_000), rate=(0, 2))
def straight_through(layer: Layer, q: AbstractQuantizer, *, steps: int = 200, rate: Number = 0.5) -> Mitigated:
    """Gradient steps on ``||X (Q(V) - W)ᵀ||²`` over V, from V = W, with the gradient of Q taken as 1 within its range.

    Inputs are taken in units of their root mean square, channel by channel, or a few large ones would dictate the step,
    which is ``rate`` over the largest eigenvalue of their Xᵀ X / tokens. The best of all steps is kept, the first
    of which is rounding to nearest: never worse on the calibration inputs. Nothing more is stored.

    Args:
        layer: weights (out, in) and calibration inputs (tokens, in).
        q: quantizer of V.
        steps: how many.
        rate: within [0, 2]; beyond 2 even a problem without quantization diverges.

    Raises:
        ValueError: for options beyond their limits.

    Source: Bengio et al., arXiv:1308.3432 (straight-through); Jacob et al., arXiv:1712.05877 (training).
    """
    w, x = layer.weights, layer.inputs
    square = jnp.mean(x * x, axis=0)
    unit = jnp.where(square > 0, jnp.sqrt(square), 1.0)
    top = curvature(x / unit[None])
    size = jnp.where(top > 0, rate / jnp.where(top > 0, top, 1.0), 0.0) / unit**2

    def loss(v: Matrix) -> tuple[Float[Array, ""], Matrix]:
        w_hat = q.roundtrip(v)
        off = product(x, w_hat - w)
        return jnp.sum(off * off) / (2 * x.shape[0]), w_hat

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        v, least, best = state
        (found, w_hat), gradient = jax.value_and_grad(loss, has_aux=True)(v)
        best = jnp.where(found < least, w_hat, best)
        return (v - size[None] * gradient, jnp.minimum(found, least), best), None

    start = (w, jnp.float32(jnp.inf), w)
    (_, least, best), _ = lax.scan(step, start, None, length=steps + 1)
    return Mitigated(best, jnp.float32(0), found={"loss": least})
