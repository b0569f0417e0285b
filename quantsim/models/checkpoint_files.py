"""Arrays with metadata in safetensors files, written whole or not at all."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # NumPy then knows bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write arrays as they are and each entry of the metadata as JSON, under another name first, then renamed.

    Raises:
        OSError: if the file cannot be written; one that was there is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors scrambles arrays that are not contiguous
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    data = save({name: np.asarray(a, order="C") for name, a in arrays.items()}, texts)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException as failure:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(failure, OSError) and failure.filename is None:  # of a full disk the system does not say it
            failure.filename = str(path)
        raise


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a file that ``write`` made.

    Raises:
        ValueError: for a file that is missing or damaged, or whose metadata are not JSON.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as failure:
        raise ValueError(
            f"{path}: missing, damaged, or not written here: {failure}; remove it and train again"
        ) from None
