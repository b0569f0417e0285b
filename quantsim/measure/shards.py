"""Arrays in parts on several CPU devices of one process: the parts one after another, and nothing is moved."""

from math import lcm
from typing import Any

import jax
import numpy as np

from quantsim._types import Weights
from quantsim.numerics.ieee import on_cpu
from quantsim.numerics.tiles import TILE


def in_order(w: Weights, run: int = 1) -> list[Weights]:
    """Rows that each device holds, on the first device and in the same memory; the array itself if not by rows.

    A program over an array that is sharded slices it across devices, which takes a thousand times as long as a stage;
    threads can work on the parts of all devices instead. All parts but the last are whole tiles, and whole runs of
    ``run`` weights: two devices may hold the halves of a block that shares a scale.

    >>> [part.shape for part in in_order(jax.numpy.ones((4, 8)))]
    [(4, 8)]
    """
    if not on_cpu() or not isinstance(w, jax.Array) or not w.ndim:
        return [w]
    devices = w.sharding.device_set
    if len(devices) == 1 or not w.is_fully_addressable or jax.typeof(w).sharding.mesh.explicit_axes:
        return [w]
    shards = sorted(w.addressable_shards, key=_first_row)
    sizes, unit = [shard.data.size for shard in shards], lcm(TILE, run)
    if (
        sum(sizes) != w.size
        or any(s.data.shape[1:] != w.shape[1:] for s in shards)
        or any(n % unit for n in sizes[:-1])
    ):
        return [w]
    here = min(devices, key=_number)
    return [jax.device_put(np.asarray(shard.data), here) for shard in shards]


def _first_row(shard: Any) -> int:
    return shard.index[0].start or 0


def _number(device: Any) -> int:
    return device.id
