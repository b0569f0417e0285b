"""Many arrays of a population, one a key, by one program for all populations that differ in numbers only."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from quantsim._types import PRNGKey, Shape
from quantsim.numerics.ieee import on_cpu
from quantsim.populations.arguments import check_key, checked_shape, words_of
from quantsim.populations.placement import Places, marked
from quantsim.populations.population import Population
from quantsim.populations.samplers import CHUNK, Sampler, in_chunks, with_float32_leaves


def samples(pop: Population, keys: Key[Array, " n"], shape: Shape) -> Float[Array, "n ..."]:
    """Arrays of a population, one for each key: ``samples(pop, keys, shape)[j]`` is ``pop.sample(keys[j], shape)``.

    To the bit. Populations that differ in numbers only (std, df, rate, magnitude …) share one compiled program.

    Args:
        pop: population.
        keys: typed keys, (n,).
        shape: shape of one array; the last axis is the input axis.

    Returns:
        Float32 weights, (n, *shape).

    Raises:
        TypeError: if ``keys`` are no typed keys, or a size of the shape no whole number.
        ValueError: if ``keys`` have not one axis, or a size is negative.

    >>> from quantsim.populations import Normal, key
    >>> keys = jax.random.split(key(0), 3)
    >>> bool((samples(Normal(), keys, (2, 5))[1] == Normal().sample(keys[1], (2, 5))).all())
    True
    """
    _check_keys(keys)
    return _samples(with_float32_leaves(pop._sampler()), keys, checked_shape(shape))


def outlier_marks(pop: Population, keys: Key[Array, " n"], shape: Shape) -> Bool[Array, "n ..."]:
    """Which weights of ``samples(pop, keys, shape)`` are outliers; none of a population that has none.

    Args and errors are those of ``samples``. Positions do not depend on the bulk: one program serves all bulks.

    >>> from quantsim.populations import Normal, key
    >>> pop = Normal().with_outliers(count=2, magnitude=100.0)
    >>> outlier_marks(pop, jax.random.split(key(0), 3), (4, 8)).sum(axis=(1, 2)).tolist()
    [2, 2, 2]
    """
    _check_keys(keys)
    return _marks(with_float32_leaves(pop._places()), keys, checked_shape(shape))


def _check_keys(keys: Any) -> None:
    check_key(keys)
    if keys.ndim != 1:
        raise ValueError(f"draws of many arrays take one axis of keys, got shape {keys.shape}")


@partial(jax.jit, static_argnums=2)
def _samples(sampler: Sampler, keys: Key[Array, " n"], shape: Shape) -> Float[Array, "n ..."]:
    def one(key: PRNGKey) -> Float[Array, "..."]:
        return in_chunks(sampler, key, words_of(0), prod(shape), shape).reshape(shape)

    return _for_each(one, keys, prod(shape))


@partial(jax.jit, static_argnums=2)
def _marks(places: tuple[Places, ...], keys: Key[Array, " n"], shape: Shape) -> Bool[Array, "n ..."]:
    return _for_each(lambda key: marked(places, key, shape), keys, prod(shape))


def _for_each(one: Callable[[PRNGKey], Array], keys: Key[Array, " n"], count: int) -> Array:
    """``one(key)`` of each key, on CPU as many at a time as fill a chunk of weights; the last may be drawn in vain."""
    n = len(keys)
    at_once = max(CHUNK // max(count, 1), 1) if on_cpu() else n
    if n <= at_once:
        return jax.vmap(one)(keys)
    turns = -(-n // at_once)
    at_once = -(-n // turns)
    in_turn = keys[jnp.arange(turns * at_once) % n].reshape(turns, at_once)
    found = lax.map(jax.vmap(one) if at_once > 1 else lambda key: one(key[0])[None], in_turn)
    return found.reshape(-1, *found.shape[2:])[:n]
