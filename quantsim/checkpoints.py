"""Weights from files: ``.npy`` and ``.safetensors``, tensor by tensor, never pickle."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np

from quantsim.quantizer.face import as_weights

_FLOATS = ("F64", "F32", "F16", "BF16")
_INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")


#: Called with the name of a tensor that cannot be read as weights, and the reason.
Refused: TypeAlias = Callable[[str, str], None]


class CheckpointError(Exception):
    """A file that cannot be read as weights; the message says what to do."""


class TensorError(CheckpointError):
    """A tensor of a file that cannot be read as weights, and the reason."""

    def __init__(self, path: Path | str, tensor: str, reason: str) -> None:
        super().__init__(f"{path}: {tensor!r} {reason}")
        self.tensor, self.reason = tensor, reason


def read(
    path: str | Path, name: str | None = None, *, refused: Refused | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each floating-point tensor of a file, one in memory at a time.

    Args:
        path: an ``.npy`` or ``.safetensors`` file.
        name: only the tensor of this name.
        refused: called for every tensor that is left out, with the reason: stored as integers, which are read by name,
            or in a way that cannot be read. Without it the former are passed over and a broken tensor raises.

    Raises:
        CheckpointError: if the file is missing, truncated, pickled, of another kind, or has no such tensor.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder, not a file" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; name an .npy or .safetensors file")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors}
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
            elif not isinstance(found, _PassedOverError):
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


class _PassedOverError(TensorError):
    """A tensor that is no weights by its type, which a reader of all weights may pass over."""


_Found: TypeAlias = tuple[str, np.ndarray] | TensorError


def _read_npy(path: Path, name: str | None) -> Iterator[_Found]:
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
    yield _numeric(array, path, path.stem)


def _read_safetensors(path: Path, name: str | None) -> Iterator[_Found]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            types = {each: file.get_slice(each).get_dtype() for each in sorted(file.keys())}
            _check_types(types, path, name)
            for each in types if name is None else (name,):
                by_name = name is None and types[each] in _INTEGERS
                if types[each] not in (*_FLOATS, *_INTEGERS) or by_name:
                    reason = "integers are read by name" if by_name else "which cannot be read; save it as F32"
                    yield _PassedOverError(path, each, f"is stored as {types[each]}, {reason}")
                else:
                    yield _numeric(file.get_tensor(each), path, each)
    except SafetensorError as failure:
        raise CheckpointError(f"{path}: damaged or truncated: {failure}; download or save it again") from None


def _check_types(types: dict[str, str], path: Path, name: str | None) -> None:
    """That there is a tensor of that name which can be read, or, without a name, any that holds floats."""
    held = ", ".join(f"{n} ({t})" for n, t in list(types.items())[:8]) + " …" * (len(types) > 8) or "nothing"
    if name is None and not any(t in _FLOATS for t in types.values()):
        raise CheckpointError(f"{path}: no tensor of {', '.join(_FLOATS)}; it holds {held}; integers are read by name")
    if name is not None and name not in types:
        raise CheckpointError(f"{path}: no tensor {name!r}; it holds {held}")
    if name is not None and types[name] not in (*_FLOATS, *_INTEGERS):
        raise TensorError(path, name, f"is stored as {types[name]}, which cannot be read; save it as F32")


def _numeric(array: np.ndarray, path: Path, name: str) -> _Found:
    bfloat16 = array.dtype == ml_dtypes.bfloat16  # of kind "V", as what numpy.save makes of it
    if array.dtype.kind == "V" and not bfloat16:
        reason = "numpy.save does not keep bfloat16 and the like; use .safetensors, or save float32"
        return TensorError(path, name, f"has lost its type: {reason}")
    if not (array.dtype.kind in "fiu" or bfloat16):
        return TensorError(path, name, f"is {array.dtype}, not real numbers; save them as float32")
    if not array.size:
        return TensorError(path, name, f"is empty, shape {array.shape}; there is nothing to measure")
    return name, array
