"""Squared gradients of the models that quantsim can run: Gemma 3 from a GGUF file, and its own language models."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import NDArray

from quantsim import checkpoints
from quantsim.models import checkpoint_files, gemma, gemma_tokens, llama, text
from quantsim.models.squared_gradients import squared_gradients
from quantsim.populations import key

_CHARACTERS_A_TOKEN = 12  # more than any passage has on average


def gradients_of(path: str | Path, *, texts: int = 4, length: int = 65) -> dict[str, NDArray[np.float32]]:
    """Squared gradients of each matrix of a model, per token, on passages of Python's documentation.

    Args:
        path: a ``.gguf`` file of Gemma 3, or a ``.safetensors`` file that ``quantsim train lm`` wrote.
        texts: passages, each a forward and a backward pass.
        length: tokens of each.

    Raises:
        CheckpointError: for a file that cannot be read, or a model that quantsim cannot run.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        real = checkpoints.real_model(path)
        tokens = _passages(real, texts, length)
        return squared_gradients(partial(_gemma, config=real.config), real.params, tokens, key(0))
    params, config = _language_model(path)
    data = text.training_bytes()
    starts = np.linspace(0, len(data) - length, texts).astype(int)
    tokens = data[starts[:, None] + np.arange(length)].astype(np.int32)
    return squared_gradients(partial(_llama, config=config), params, tokens, key(0))


def _gemma(params: dict[str, Array], tokens: Int[Array, "texts time"], *, config: Any) -> Array:
    return gemma.forward(params, tokens, config)


def _llama(params: dict[str, Array], tokens: Int[Array, "texts time"], *, config: Any) -> Array:
    return llama.forward(params, tokens, config)


def _passages(real: checkpoints.RealModel, texts: int, length: int) -> Int[np.ndarray, "texts time"]:
    """Passages evenly spaced over the topics."""
    whole = "\n".join(topic.decode() for topic in text.topics().values())
    most = length * _CHARACTERS_A_TOKEN
    starts = np.linspace(0, len(whole) - most, texts).astype(int)
    found = [gemma_tokens.encode(real.vocabulary, whole[s : s + most], bos=real.bos)[:length] for s in starts]
    return np.stack(found)


def _language_model(path: Path) -> tuple[dict[str, Array], llama.Config]:
    try:
        arrays, metadata = checkpoint_files.read(path)
        config = llama.Config(**metadata["config"])
        params: Mapping[str, Any] = {name: jnp.asarray(a, jnp.float32) for name, a in arrays.items()}
        llama.check(dict(params), config)
    except (ValueError, KeyError, TypeError) as failure:
        raise checkpoints.CheckpointError(
            f"{path}: quantsim runs Gemma 3 (.gguf) and what quantsim train lm wrote: {failure}; for another model "
            "write squared gradients from its own framework, a tensor of the name and shape of each"
        ) from None
    return dict(params), config
