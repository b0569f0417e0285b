"""Work on blocks a chunk at a time: temporaries are bounded by a chunk, not by the tensor."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Shaped

from quantsim.numerics.ieee import on_cpu

#: Weights that are worked on at a time on CPU: few enough for the caches, enough to keep every core busy.
CHUNK = 2**17
_LARGE = 2**26  # and elsewhere: enough for every multiprocessor


def over_chunks(f: Callable[..., Any], rows: Shaped[Array, "rows n"], chunk: int) -> Any:
    """``f(first, rows)`` on at most ``chunk`` rows at a time; the last chunk overlaps the one before it.

    >>> over_chunks(lambda first, r: r + first, jnp.zeros((5, 1)), 2).ravel().tolist()
    [0.0, 0.0, 2.0, 3.0, 3.0]
    """
    total = len(rows)
    chunk = min(total, chunk if on_cpu() else chunk * (_LARGE // CHUNK))
    if total == chunk > 0:
        return f(0, rows)

    def some(n: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *rows.shape[1:]), rows.dtype)

    if not total:
        return jax.tree.map(lambda out: jnp.zeros((0, *out.shape[1:]), out.dtype), jax.eval_shape(f, 0, some(1)))

    def step(i: Int[Array, ""] | int, out: Any) -> Any:
        first = jnp.minimum(i * chunk, total - chunk).astype(jnp.int32)
        part = f(first, lax.dynamic_slice_in_dim(rows, first, chunk))
        return jax.tree.map(lambda o, p: lax.dynamic_update_slice_in_dim(o, p, first, 0), out, part)

    # overwritten; filled with a weight, so that it is as sharded as the weights
    out = jax.tree.map(
        lambda part: jnp.full((total, *part.shape[1:]), rows.reshape(-1)[0].astype(part.dtype), part.dtype),
        jax.eval_shape(f, 0, some(chunk)),
    )
    return lax.fori_loop(0, -(-total // chunk), step, out)
