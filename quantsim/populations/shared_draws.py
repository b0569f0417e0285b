"""Drawing large arrays on CPU: parts of them by all cores, into memory that is quick to touch."""

from functools import cache
from math import prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import PRNGKey, Shape
from quantsim.numerics.memory import empty
from quantsim.numerics.meshes import is_on_one_cpu
from quantsim.numerics.threads import ONE_CORE_A_CALL, by_threads, cores, worth_sharing
from quantsim.populations.arguments import words_of
from quantsim.populations.draws import Index
from quantsim.populations.samplers import Sampler, in_chunks

_PART = 2**19  # elements of a call, some milliseconds


def shared_draw(sampler: Sampler, key: PRNGKey, start: int, shape: Shape, whole: Shape) -> Float[Array, "..."] | None:
    """Elements ``start …`` as an array of a shape, to the bit, by all cores; None where one program is as good.

    Each thread calls one program, compiled for a part whatever the shape, and an element depends on its index alone.
    """
    size, threads = prod(shape), cores()
    known = all(is_on_one_cpu(leaf) for leaf in (key, *jax.tree.leaves(sampler)) if isinstance(leaf, jax.Array))
    if not known or not jax.sharding.get_abstract_mesh().empty or not worth_sharing(size, threads):
        return None
    out = empty(size)
    numbers, structure = jax.tree.flatten(sampler)
    # compiled ahead: a call with known numbers is then no part of a program that is being traced
    program = _part().lower(structure, numbers, key, words_of(start), _PART, whole).compile()

    def part(first: int) -> None:
        found = np.asarray(program(numbers, key, words_of(start + first)))
        out[first : first + _PART] = found[: size - first]

    by_threads(part, range(0, size, _PART), threads=threads)
    return jax.device_put(out.reshape(shape), key.sharding if key.committed else None, may_alias=True)


@cache
def _part() -> Any:
    """Program of so many elements of a sampler, taken apart: structure and numbers."""

    def drawn(
        structure: Any, numbers: list[Any], key: PRNGKey, start: Index, count: int, whole: Shape
    ) -> Float[Array, " n"]:
        return in_chunks(jax.tree.unflatten(structure, numbers), key, start, count, whole)

    return jax.jit(drawn, static_argnums=(0, 4, 5), compiler_options=ONE_CORE_A_CALL)
