"""Weights from files: ``.npy`` and ``.safetensors``, tensor by tensor, never pickle."""

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np


class CheckpointError(Exception):
    """A file that cannot be read as weights; the message says what to do."""


def read(path: str | Path, name: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each floating-point tensor of a file, one in memory at a time.

    Args:
        path: an ``.npy`` or ``.safetensors`` file.
        name: only the tensor of this name.

    Raises:
        CheckpointError: if the file is missing, truncated, pickled, of another kind, or has no such tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path}: cannot read {path.suffix or 'a file without extension'}; pickled formats (.pt, .bin, .pkl) are "
            "never opened: convert to .safetensors or .npy"
        )
    try:
        yield from readers[path.suffix](path, name)
    except OSError as failure:
        raise CheckpointError(f"{path}: {failure.strerror or failure}") from None


def _read_npy(path: Path, name: str | None) -> Iterator[tuple[str, np.ndarray]]:
    if name not in (None, path.stem):
        raise CheckpointError(f"{path}: an .npy file holds one array, here called {path.stem!r}, not {name!r}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as failure:
        reason = "holds pickled objects, which are never loaded" if "pickle" in str(failure) else f"damaged: {failure}"
        raise CheckpointError(f"{path}: {reason}; save it again with numpy.save from a numeric array") from None
    yield path.stem, _numeric(array, path, path.stem)


def _read_safetensors(path: Path, name: str | None) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            if name is not None and name not in names:
                raise CheckpointError(
                    f"{path}: no tensor {name!r}; it holds {', '.join(names[:8])}{' …' * (len(names) > 8)}"
                )
            chosen = names if name is None else [name]
            for each in chosen:
                if name is not None or file.get_slice(each).get_dtype() in ("F64", "F32", "F16", "BF16"):
                    yield each, _numeric(file.get_tensor(each), path, each)
    except SafetensorError as failure:
        raise CheckpointError(f"{path}: damaged or truncated: {failure}") from None


def _numeric(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        raise CheckpointError(
            f"{path}: {name!r} has lost its type: numpy.save does not keep bfloat16; use .safetensors, or save float32"
        )
    if not (array.dtype.kind in "fiu" or array.dtype == ml_dtypes.bfloat16):
        raise CheckpointError(f"{path}: {name!r} is {array.dtype}, not real numbers")
    if not array.size:
        raise CheckpointError(f"{path}: {name!r} is empty, shape {array.shape}")
    return array
