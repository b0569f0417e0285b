"""The inputs of every linear layer of a model: what mitigations and static scales are calibrated on."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jaxtyping import Array, Float

from quantsim.models.layers import linear

#: A forward pass: (parameters, product) -> anything; the product is called at each linear layer.
Forward: TypeAlias = Callable[[Any, Callable[[str, Array, Any], Array]], Any]


def site_inputs(forward: Forward, params: Any) -> dict[str, Float[Array, "tokens in"]]:
    """The inputs (tokens, in) of each linear layer, by its name, in one compiled forward pass.

    Args:
        forward: ``forward(params, product)``, for example
            ``lambda params, product: llama.forward(params, tokens, config, product=product)``.
        params: parameters of the model, not quantized.

    >>> from quantsim.models import llama
    >>> config = llama.Config(width=8, layers=1, heads=2, kv_heads=1, hidden=16)
    >>> params, tokens = llama.init(jax.random.key(0), config), jax.numpy.zeros((2, 5), int)
    >>> found = site_inputs(lambda p, product: llama.forward(p, tokens, config, product=product), params)
    >>> found["blk.0.ffn_down"].shape
    (10, 16)
    """

    @jax.jit
    def observed(params: Any) -> dict[str, Array]:
        inputs: dict[str, Array] = {}

        def observing(name: str, x: Array, w: Array) -> Array:
            inputs[name] = x.reshape(-1, x.shape[-1])
            return linear(name, x, w)

        forward(params, observing)
        return inputs

    return observed(params)
