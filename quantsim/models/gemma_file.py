"""What a GGUF file must say and hold to be Gemma 3: its metadata as a ``Config``, its tensors as parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from quantsim.models.gemma_config import OUTPUT, Config, check_params, shapes

ARCHITECTURE = "gemma3"
LOCAL_BASE = 10_000.0  # llama.cpp knows it of the architecture; files do not say it
PERIOD = 6
_LAYERS_OF_27B = 62  # the one size whose queries are scaled by width / heads instead of the width of a head


def config_of(metadata: Mapping[str, Any]) -> Config:
    """Sizes and constants from the metadata of a GGUF file.

    Raises:
        ValueError: for another architecture, a number that is missing, or what this forward pass does not do.

    >>> config_of({"general.architecture": "llama"})
    Traceback (most recent call last):
    ValueError: the file holds a model of architecture 'llama', not 'gemma3'; name one of Gemma 3, for example 270M
    """
    found = metadata.get("general.architecture")
    if found != ARCHITECTURE:
        raise ValueError(
            f"the file holds a model of architecture {found!r}, not {ARCHITECTURE!r}; name one of Gemma 3, "
            "for example 270M"
        )
    _refuse_extras(metadata)
    width, layers, heads = (_number(metadata, k) for k in ("embedding_length", "block_count", "attention.head_count"))
    head = _number(metadata, "attention.key_length")
    if head != _number(metadata, "attention.value_length"):
        raise ValueError("keys and values of different widths are not Gemma 3's: attention.key_length, .value_length")
    return Config(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=_number(metadata, "attention.head_count_kv"),
        head=head,
        hidden=_number(metadata, "feed_forward_length"),
        window=_number(metadata, "attention.sliding_window"),
        query_scale=(width / heads if layers == _LAYERS_OF_27B else head) ** -0.5,
        period=PERIOD,
        local_base=LOCAL_BASE,
        global_base=float(metadata.get(f"{ARCHITECTURE}.rope.freq_base", 1e6)),
        epsilon=float(metadata.get(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon", 1e-6)),
    )


def _number(metadata: Mapping[str, Any], key: str) -> int:
    found = metadata.get(f"{ARCHITECTURE}.{key}")
    if not isinstance(found, int) or isinstance(found, bool) or found <= 0:
        raise ValueError(f"the file's metadata have {found!r} as {ARCHITECTURE}.{key}, not a whole number above 0")
    return found


def _refuse_extras(metadata: Mapping[str, Any]) -> None:
    """Settings of other members of the family that change what is computed."""
    for key, plain in (("final_logit_softcapping", 0), ("attn_logit_softcapping", 0), ("rope.scaling.factor", 1)):
        if metadata.get(f"{ARCHITECTURE}.{key}", plain) not in (plain, 0):
            raise ValueError(
                f"the file sets {ARCHITECTURE}.{key} to {metadata[f'{ARCHITECTURE}.{key}']}, which this forward pass "
                "does not do; use a text model of Gemma 3 without it, for example 270M or 1B"
            )


def params_of(tensors: Iterable[tuple[str, np.ndarray]], config: Config) -> dict[str, Array]:
    """Parameters by name, float32: names of the tensors without ".weight", every one there, and of its shape.

    Args:
        tensors: name and array, (out, in), of each.
        config: what they must fit.

    Raises:
        ValueError: for a tensor that is missing, has another shape, or is not known.
    """
    found = {}
    for name, array in tensors:
        found[name.removesuffix(".weight")] = jnp.asarray(array, jnp.float32)
    check_params(found, config)
    order = [*shapes(config, 0), OUTPUT]
    return {name: found[name] for name in order if name in found}
