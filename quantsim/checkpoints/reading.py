"""Weights from files, by the ending of their names."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quantsim.checkpoints.arrays import read_npy
from quantsim.checkpoints.errors import CheckpointError, PassedOverError, Refused, TensorError
from quantsim.checkpoints.gguf_file import read_gguf
from quantsim.checkpoints.safetensors_file import read_safetensors
from quantsim.quantizer.face import as_weights


def read(
    path: str | Path, name: str | None = None, *, refused: Refused | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each floating-point tensor of a file, one in memory at a time.

    Args:
        path: an ``.npy``, ``.safetensors`` or ``.gguf`` file; quantized tensors of the last come dequantized.
        name: only the tensor of this name.
        refused: called for every tensor that is left out, with the reason: stored as integers, which are read by name,
            or in a way that cannot be read. Without it the former are passed over and a broken tensor raises.

    Raises:
        CheckpointError: if the file is missing, truncated, pickled, of another kind, or has no such tensor.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder, not a file" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; name an .npy, .safetensors or .gguf file")
    readers = {".npy": read_npy, ".safetensors": read_safetensors, ".gguf": read_gguf}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path}: cannot read {path.suffix or 'a file without extension'}; pickled formats (.pt, .bin, .pkl) are "
            "never opened: convert to .safetensors or .npy"
        )
    try:
        for found in readers[path.suffix](path, name):
            if not isinstance(found, TensorError):
                yield found
            elif refused is not None:
                refused(found.tensor, found.reason)
            elif not isinstance(found, PassedOverError):
                raise found
    except OSError as failure:
        raise CheckpointError(f"{path}: {failure.strerror or failure}") from None


def weights(
    path: str | Path, name: str | None = None, *, refused: Refused | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float32 weights of each tensor of a file, as ``read`` finds them; all must be finite.

    Raises:
        CheckpointError: also for a NaN or infinity, named with its index, unless ``refused`` is called for it.
    """
    for each, array in read(path, name, refused=refused):
        try:
            found = np.asarray(as_weights(array))
        except ValueError as failure:
            if refused is None:
                raise TensorError(path, each, f"cannot be weights: {failure}") from None
            refused(each, str(failure))
            continue
        yield each, found
