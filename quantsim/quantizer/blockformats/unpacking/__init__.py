"""Weights of GGUF bytes at the speed of memory: a program for each type, apart from the formats that also pack.

Types that only this room knows can be unpacked, not packed. ``unpacked`` decides where: NumPy arrays, and arrays of JAX
on the one CPU, go through a compiled program a chunk at a time (``host``); what is traced, sharded or on an accelerator
goes through the same functions of blocks as a part of the caller's own program.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from quantsim._types import Weights
from quantsim.numerics.ieee import on_cpu
from quantsim.numerics.meshes import placed_like
from quantsim.quantizer.blockformats.unpacking import grids, host, plain, supers, tables
from quantsim.quantizer.blockformats.unpacking.layout import Layout

#: Every block type by its name in GGUF files.
LAYOUTS: dict[str, Layout] = {
    "Q4_0": Layout(32, 18, plain.q4_0),
    "Q4_1": Layout(32, 20, plain.q4_1),
    "Q5_0": Layout(32, 22, plain.q5_0),
    "Q5_1": Layout(32, 24, plain.q5_1),
    "Q8_0": Layout(32, 34, plain.q8_0),
    "Q8_1": Layout(32, 36, plain.q8_1),
    "Q1_0": Layout(128, 18, plain.q1_0),
    "Q2_K": Layout(256, 84, supers.q2_k),
    "Q3_K": Layout(256, 110, supers.q3_k),
    "Q4_K": Layout(256, 144, supers.q4_k),
    "Q5_K": Layout(256, 176, supers.q5_k),
    "Q6_K": Layout(256, 210, supers.q6_k),
    "Q8_K": Layout(256, 292, supers.q8_k),
    "IQ4_NL": Layout(32, 18, tables.iq4_nl),
    "IQ4_XS": Layout(256, 136, tables.iq4_xs),
    "MXFP4": Layout(32, 17, tables.mxfp4),
    "NVFP4": Layout(64, 36, tables.nvfp4),
    "TQ1_0": Layout(256, 54, tables.tq1_0),
    "TQ2_0": Layout(256, 66, tables.tq2_0),
    "IQ1_S": Layout(256, 50, grids.iq1_s),
    "IQ1_M": Layout(256, 56, grids.iq1_m),
    "IQ2_XXS": Layout(256, 66, grids.iq2_xxs),
    "IQ2_XS": Layout(256, 74, grids.iq2_xs),
    "IQ2_S": Layout(256, 82, grids.iq2_s),
    "IQ3_XXS": Layout(256, 98, grids.iq3_xxs),
    "IQ3_S": Layout(256, 110, grids.iq3_s),
}


def unpacked(layout: Layout, data: jax.Array | np.ndarray) -> Weights:
    """Weights of bytes (..., whole blocks), wherever these are."""
    if not data.size:
        return jnp.zeros(layout.shape(data.shape), jnp.float32)
    if _on_the_host(data):
        return jax.device_put(host.unpacked(layout, np.asarray(data)), may_alias=True)
    return _compiled(layout, jnp.asarray(data))


def _on_the_host(data: jax.Array | np.ndarray) -> bool:
    """Whether ``data`` lie in the memory of this process, and their weights belong there, too."""
    config: Any = jax.config
    if not on_cpu() or not jax.sharding.get_abstract_mesh().empty or config.jax_disable_jit:
        return False
    if isinstance(data, np.ndarray):
        return True
    try:
        return len(data.devices()) == 1 and not data.committed
    except jax.errors.ConcretizationTypeError:  # traced
        return False


@partial(jax.jit, static_argnums=0)
def _compiled(layout: Layout, data: UInt8[Array, "..."]) -> Weights:
    def weights(data: UInt8[Array, "..."]) -> Weights:
        return layout.values(data.reshape(-1, layout.nbytes)).reshape(layout.shape(data.shape))

    return placed_like(data, weights, data)


__all__ = ["LAYOUTS", "Layout", "unpacked"]
