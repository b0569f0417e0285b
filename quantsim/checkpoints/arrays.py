"""Tensors as arrays of real numbers, and ``.npy`` files, which hold one."""

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from quantsim.checkpoints.errors import CheckpointError, Found, TensorError


def numeric(array: np.ndarray, path: Path, name: str) -> Found:
    """The array of a tensor, if it holds real numbers, or why it cannot be read."""
    bfloat16 = array.dtype == ml_dtypes.bfloat16  # of kind "V", as what numpy.save makes of it
    if array.dtype.kind == "V" and not bfloat16:
        reason = "numpy.save does not keep bfloat16 and the like; use .safetensors, or save float32"
        return TensorError(path, name, f"has lost its type: {reason}")
    if not (array.dtype.kind in "fiu" or bfloat16):
        return TensorError(path, name, f"is {array.dtype}, not real numbers; save them as float32")
    if not array.size:
        return TensorError(path, name, f"is empty, shape {array.shape}; there is nothing to measure")
    return name, array


def read_npy(path: Path, name: str | None) -> Iterator[Found]:
    """The array of an ``.npy`` file, mapped, called as the file is."""
    if name not in (None, path.stem):
        raise CheckpointError(f"{path}: an .npy file holds one array, here called {path.stem!r}, not {name!r}")
    try:
        # not numpy.load: it would open a zip or a pickle of this name as such
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as failure:  # a damaged header makes NumPy's parser raise all kinds
        pickled = "Python objects" in str(failure)
        reason = "holds pickled objects, which are never loaded" if pickled else f"damaged, or no .npy file: {failure}"
        raise CheckpointError(f"{path}: {reason}; save it again with numpy.save from a numeric array") from None
    yield numeric(array, path, path.stem)
