"""Where the compiler must not fuse, and how many weights it works on at a time.

On CPU XLA fuses an expression into everything that reads it and computes it again there, and a long chain of dependent
operations leaves the processor waiting. Cut into stages, each of which writes a result that fits the cache, the same
operations run faster; the study ``throughput`` says what comes of it. On GPU fusion is what saves memory traffic, and
there nothing is cut.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Shaped

from quantsim.numerics import ieee
from quantsim.numerics.ieee import on_cpu

#: Weights of a stage: in float32, with a copy, they fit the second-level cache of a core.
STAGE = 2**16


def apart(f: Callable[[], Any], data: Shaped[jax.Array, "..."], *, idle: Bool[jax.Array, ""] | bool = False) -> Any:
    """``f()`` as a stage of its own on CPU: computed once and stored, whatever reads it.

    It is the branch of a condition that always holds, which the compiler cannot know: no word has more than 32 bits
    set. The word is taken from ``data``, any array with an element that is known at run time only. Where it is ``idle``
    nothing reads the result, which may then be anything.
    """
    if not on_cpu() or not data.size:
        return f()
    first = data.reshape(-1)[0]
    word = ieee.bits_of(first) if jnp.issubdtype(first.dtype, jnp.floating) else first.astype(jnp.int32)

    once = jax.jit(f, inline=True)  # traced here for its shapes, and not again for the branch

    def never() -> Any:  # zeros, as sharded as the data
        return jax.tree.map(lambda s: jnp.full(s.shape, (0 * word).astype(s.dtype)), jax.eval_shape(once))

    return lax.cond((lax.population_count(word) > 32) | idle, never, once)


def over_stages(f: Callable[..., Any], rows: tuple[Shaped[jax.Array, "rows n"], ...], stage: int) -> Any:
    """``f(*rows)`` of arrays of equally many rows, on CPU ``stage`` rows at a time, joined along the first axis.

    >>> over_stages(lambda r: r * 2, (jnp.arange(5.0)[:, None],), 2).ravel().tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    total = len(rows[0])
    whole = total // stage * stage
    if not on_cpu() or whole < 2 * stage:
        return f(*rows)
    stages = tuple(r[:whole].reshape(-1, stage, *r.shape[1:]) for r in rows)
    done = jax.tree.map(lambda out: out.reshape(whole, *out.shape[2:]), lax.map(lambda part: f(*part), stages))
    if whole == total:
        return done
    rest = f(*(r[whole:] for r in rows))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)
