"""An allocation as other programs read it: llama.cpp's file of tensor types, JSON, or a Python dict."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pprint import pformat

from quantsim.inspection.advice import AS_STORED
from quantsim.inspection.roles import Role
from quantsim.quantizer.blockformats import gguf

#: Names of types as ggml spells them, where that is not lower case.
_GGML = {name: f"{name[:-1].lower()}K" for name in gguf.TYPES if name.endswith("_K")}
_PLAIN = {"f16": "f16", "bf16": "bf16"}


class CannotEmitError(ValueError):
    """An allocation that the program cannot use; the message says why."""


def text_for(path: Path, formats: Mapping[str, str], roles: Mapping[str, Role]) -> str:
    r"""The text of a file for an allocation, by the ending of its name.

    Args:
        path: ``.txt`` for ``llama-quantize --tensor-type-file``, ``.json``, or ``.py`` for a dict.
        formats: format of each tensor.
        roles: of each tensor; llama.cpp calls tensors by them.

    Raises:
        CannotEmitError: for another ending, a format that no GGUF file holds, or a tensor that llama.cpp has no name
            for.

    >>> print(text_for(Path("types.txt"), {"h": "q4_k"}, {"h": Role("ffn_up", 3, "blk")}), end="")
    blk\.3\.ffn_up\.weight=q4_K
    """
    chosen = {name: spec for name, spec in formats.items() if spec != AS_STORED}
    check_ending(path)
    return _WRITERS[path.suffix](chosen, roles)


def check_ending(path: Path) -> None:
    """Refuse a file that nothing is written for, before hours of work.

    Raises:
        CannotEmitError: for an unknown ending.
    """
    if path.suffix not in _WRITERS:
        raise CannotEmitError(f"{path}: emit to a file that ends in {', '.join(_WRITERS)}")


def _types(formats: Mapping[str, str], roles: Mapping[str, Role]) -> str:
    return "".join(f"{re.escape(name_of(n, roles[n]))}={_type_of(n, spec)}\n" for n, spec in formats.items())


def name_of(name: str, role: Role) -> str:
    """What llama.cpp calls a tensor.

    Raises:
        CannotEmitError: for a tensor of no known role.
    """
    if role.kind == "other" or role.expert is not None:
        raise CannotEmitError(f"{name!r}: llama.cpp's name of it is not known; emit to a .json file, or --exclude it")
    block = "" if role.layer is None else f"blk.{role.layer}."
    return f"{block}{role.kind}.weight"


def _type_of(name: str, spec: str) -> str:
    if spec.upper() in gguf.TYPES:
        return _GGML.get(spec.upper(), spec)
    if spec in _PLAIN:
        return spec
    known = " ".join(t.lower() for t in gguf.TYPES)
    raise CannotEmitError(f"{name!r}: no GGUF file holds {spec}; choose among --formats {known}")


def _json(formats: Mapping[str, str], roles: Mapping[str, Role]) -> str:
    del roles
    return json.dumps(dict(formats), indent=1) + "\n"


def _python(formats: Mapping[str, str], roles: Mapping[str, Role]) -> str:
    del roles
    return f"FORMATS = {pformat(dict(formats), sort_dicts=False)}\n"


_WRITERS: dict[str, Callable[[Mapping[str, str], Mapping[str, Role]], str]] = {
    ".txt": _types,
    ".json": _json,
    ".py": _python,
}
