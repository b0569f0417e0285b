"""Tensors of ``.safetensors`` files."""

from collections.abc import Iterator
from pathlib import Path

from quantsim.checkpoints.arrays import numeric
from quantsim.checkpoints.errors import CheckpointError, Found, PassedOverError, TensorError

FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")


def read_safetensors(path: Path, name: str | None) -> Iterator[Found]:
    """Each floating-point tensor in the order of names, or the named one of any numbers."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            types = {each: file.get_slice(each).get_dtype() for each in sorted(file.keys())}
            _check_types(types, path, name)
            for each in types if name is None else (name,):
                by_name = name is None and types[each] in INTEGERS
                if types[each] not in (*FLOATS, *INTEGERS) or by_name:
                    reason = "integers are read by name" if by_name else "which cannot be read; save it as F32"
                    yield PassedOverError(path, each, f"is stored as {types[each]}, {reason}")
                else:
                    yield numeric(file.get_tensor(each), path, each)
    except SafetensorError as failure:
        raise CheckpointError(f"{path}: damaged or truncated: {failure}; download or save it again") from None


def _check_types(types: dict[str, str], path: Path, name: str | None) -> None:
    """That there is a tensor of that name which can be read, or, without a name, any that holds floats."""
    held = ", ".join(f"{n} ({t})" for n, t in list(types.items())[:8]) + " …" * (len(types) > 8) or "nothing"
    if name is None and not any(t in FLOATS for t in types.values()):
        raise CheckpointError(f"{path}: no tensor of {', '.join(FLOATS)}; it holds {held}; integers are read by name")
    if name is not None and name not in types:
        raise CheckpointError(f"{path}: no tensor {name!r}; it holds {held}")
    if name is not None and types[name] not in (*FLOATS, *INTEGERS):
        raise TensorError(path, name, f"is stored as {types[name]}, which cannot be read; save it as F32")
