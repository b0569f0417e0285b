"""Samplers: what a population needs on the device to draw elements, its numbers being leaves of a pytree.

A population is a static spec. Its sampler holds the constants that its draw multiplies by, worked out in float64 and
rounded once; one program then serves all populations that differ in numbers only, with the same bits for each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

from quantsim._types import Number, PRNGKey, Shape
from quantsim.numerics import ieee
from quantsim.numerics.ieee import on_cpu
from quantsim.populations import draws
from quantsim.populations.draws import Index, indices

#: Weights of a stage of draws on CPU.
CHUNK = 1 << 15

#: Metadata of a field that is part of the program, not a number of it.
STATIC = {"static": True}

S = TypeVar("S")


class Sampler(ABC):
    """Elements of a population as a function of key and index: a pytree of numbers."""

    @abstractmethod
    def elements(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        """Float32 elements with index ``i`` of an array of shape ``whole``, which only placed outliers look at."""


def scaled(unit: Float[Array, " n"], factor: Any) -> Float[Array, " n"]:
    """``unit * factor`` with one rounding: the compiler may not merge the factor with constants inside ``unit``."""
    return ieee.unfused(unit, unit) * jnp.asarray(factor, jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled(Sampler):
    """``factor`` times a draw of unit scale, such as ``draws.normal``, with its parameters."""

    draw: Callable[..., Float[Array, " n"]] = field(metadata=STATIC)
    parameters: tuple[Number, ...]
    factor: Number

    def elements(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        """Draw and scale."""
        del whole
        return scaled(self.draw(key, i, *self.parameters), self.factor)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chosen(Sampler):
    """Any of given values, with replacement."""

    values: Float[np.ndarray | Array, " m"]

    def elements(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        """Value number ``bits % m``."""
        del whole
        return jnp.asarray(self.values)[draws.bits(key, i) % np.uint32(self.values.size)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixed(Sampler):
    """Elements of one of several samplers, by the bits of a stream of the key.

    Attributes:
        streams: number of the stream of each component.
        components: samplers.
        last: largest bits with which each component but the last is drawn, increasing.
    """

    streams: tuple[int, ...] = field(metadata=STATIC)
    components: tuple[Sampler, ...]
    last: UInt32[np.ndarray | Array, " m"]

    def elements(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        """Draw from every component, keep one."""
        drawn = [
            component.elements(jax.random.fold_in(key, stream), i, whole)
            for stream, component in zip(self.streams, self.components, strict=True)
        ]
        chance = draws.bits(jax.random.fold_in(key, 0), i)
        out = drawn[-1]
        for j in reversed(range(len(drawn) - 1)):
            out = jnp.where(chance <= self.last[j], drawn[j], out)
        return out


def with_float32_leaves(sampler: S) -> S:
    """The sampler as an argument of a program: numbers of Python become float32 scalars."""
    return jax.tree.map(_leaf, sampler)


def _leaf(number: Any) -> Any:
    if isinstance(number, jax.Array):
        return number if number.ndim else number.astype(jnp.float32)
    if isinstance(number, np.ndarray):
        return number
    with np.errstate(over="ignore"):  # what is larger than all float32 numbers is drawn as infinite
        return np.float32(number)


def in_chunks(sampler: Sampler, key: PRNGKey, start: Index, count: int, whole: Shape) -> Float[Array, " n"]:
    """Elements ``start …``, ``count`` of them.

    On CPU one chunk after the other: a loop cannot be fused into, and so repeated in, all that reads the weights.
    """
    if count <= CHUNK or not on_cpu():
        return sampler.elements(key, indices(start, count), whole)
    firsts = indices(start, -(-count // CHUNK), step=CHUNK)
    chunks = lax.map(lambda first: sampler.elements(key, indices(first, CHUNK), whole), firsts)
    return chunks.reshape(-1)[:count]


@partial(jax.jit, static_argnums=(3, 4))
def drawn(sampler: Sampler, key: PRNGKey, start: Index, shape: Shape, whole: Shape) -> Float[Array, "..."]:
    """``in_chunks`` as one program for each structure and shapes; reshaped in it, as to do so later would copy."""
    return in_chunks(sampler, key, start, prod(shape), whole).reshape(shape)
