"""Arrays on a mesh whose axes are ``Explicit``, as ``jax.make_mesh`` makes them by default.

There every operation must say how its result is sharded, and a reshape of weights into blocks cannot. So whole
functions run with the placement left to the compiler, and only their results are placed: like the weights.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from quantsim._types import Shape
from quantsim.numerics.ieee import on_cpu


def placed_like(w: jax.Array, f: Callable[..., Any], *arguments: Any) -> Any:
    """``f(*arguments)``; on a mesh with explicit axes each result lies on the devices as ``w`` does.

    An axis of a result is sharded as that axis of ``w`` where its length allows.

    >>> import jax.numpy as jnp
    >>> w = jnp.arange(8.0).reshape(2, 4)
    >>> placed_like(w, lambda x: x.reshape(-1, 2).sum(axis=1), w).tolist()
    [1.0, 5.0, 9.0, 13.0]
    """
    placement = jax.typeof(w).sharding
    if not placement.mesh.explicit_axes:
        return f(*arguments)
    unplaced = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    results = jax.tree.map(lambda out: _placement(placement, out.shape), jax.eval_shape(f, *unplaced))
    return jax.sharding.auto_axes(f, axes=placement.mesh.explicit_axes, out_sharding=results)(*arguments)


def is_on_one_cpu(w: jax.Array) -> bool:
    """Whether the array lies on one device, a CPU, and no mesh says how results are to be placed.

    >>> import jax.numpy as jnp
    >>> is_on_one_cpu(jnp.zeros(2)), bool(jax.jit(lambda w: is_on_one_cpu(w) + w.sum())(jnp.zeros(2)))
    (True, False)
    """
    config: Any = jax.config
    known = on_cpu() and not config.jax_disable_jit and hasattr(w, "sharding")  # what is traced lies nowhere
    return known and len(w.sharding.device_set) == 1 and not jax.typeof(w).sharding.mesh.explicit_axes


def _placement(like: NamedSharding, shape: Shape) -> NamedSharding:
    """The sharding ``like`` of an array of another shape."""

    def devices(axis: Any) -> int:
        names = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return prod(like.mesh.shape[name] for name in names)

    spec = zip(like.spec, shape, strict=False)
    return NamedSharding(like.mesh, PartitionSpec(*(None if n % devices(axis) else axis for axis, n in spec)))
