"""The compiled programs of quantizers: one for a structure and a shape, with the numbers of the quantizer as arguments.

A ``QuantizedArray`` enters and leaves a program with the structure in the place of its quantizer.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from quantsim._types import PRNGKey, Weights
from quantsim.numerics.meshes import placed_like
from quantsim.populations.structure import Structure
from quantsim.quantizer.structure import Numbers, rebuild_quantizer


@partial(jax.jit, static_argnums=(0, 4))
def quantized(structure: Structure, numbers: Numbers, w: Weights, key: PRNGKey | None, dtype: Any) -> Any:
    """The quantized array of ``w``, with codes of type ``dtype`` unless that is None."""

    def encoded(w: Weights, numbers: Numbers, key: PRNGKey | None) -> Any:
        found = rebuild_quantizer(structure, numbers)._encode(w, key)
        codes = found.codes if dtype is None else found.codes.astype(dtype)
        return replace(found, codes=codes, quantizer=structure)

    return placed_like(w, encoded, w, numbers, key)


@partial(jax.jit, static_argnums=2)
def dequantized(stored: Any, numbers: Numbers, batch_axes: int) -> Weights:
    """The weights of a quantized array, or of a batch with so many axes in front of those of each array."""

    def decoded(stored: Any, numbers: Numbers) -> Weights:
        q = rebuild_quantizer(stored.quantizer, numbers)

        def one(stored: Any) -> Weights:
            return q._decode(replace(stored, quantizer=q))

        for _ in range(batch_axes):
            one = jax.vmap(one)
        return one(stored)

    return placed_like(stored.codes, decoded, stored, numbers)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(jax.jit, static_argnums=0)
def roundtrip(structure: Structure, numbers: Numbers, w: Weights, key: PRNGKey | None) -> Weights:
    """The weights of the quantized array of ``w``, with a straight-through gradient."""

    def approximated(w: Weights, numbers: Numbers, key: PRNGKey | None) -> Weights:
        return rebuild_quantizer(structure, numbers)._approximate(w, key)

    return placed_like(w, approximated, w, numbers, key)


@roundtrip.defjvp
def _roundtrip_jvp(structure: Structure, primals: tuple, tangents: tuple) -> tuple[Weights, Weights]:
    numbers, w, _ = primals
    return roundtrip(structure, *primals), jnp.where(clipped(structure, numbers, w), 0.0, tangents[1])


@partial(jax.jit, static_argnums=0)
def clipped(structure: Structure, numbers: Numbers, w: Weights) -> Bool[Array, "..."]:
    """Which weights lie more than half a step outside the range of their block."""

    def outside(w: Weights, numbers: Numbers) -> Bool[Array, "..."]:
        return rebuild_quantizer(structure, numbers)._outside(w)

    return placed_like(w, outside, w, numbers)
