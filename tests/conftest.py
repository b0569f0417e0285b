"""The strict session: four CPU devices, shapes checked at run time, no implicit rank promotion, a headless canvas."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("quantsim", "beartype.beartype")
