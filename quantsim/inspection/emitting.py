"""An allocation as other programs read it: llama.cpp's file of tensor types, JSON, or a Python dict."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pprint import pformat

from quantsim.inspection.advice import AS_STORED
from quantsim.inspection.roles import Role
from quantsim.quantizer.blockformats import gguf

#: What ggml calls the types of quantsim's specs: q4_K, but iq4_nl.
_GGML = {str(q): f"{name[:-1].lower()}K" if name.endswith("_K") else name.lower() for name, q in gguf.TYPES.items()}
_PLAIN = {"f16": "f16", "bf16": "bf16"}
#: Kinds of tensors that llama.cpp calls so, inside and outside of blocks.
_IN_BLOCKS = (
    *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"),
    *("ffn_gate", "ffn_up", "ffn_down", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
)
_OUTSIDE = ("token_embd", "output")


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
    names = {name: name_of(name, roles[name]) for name in formats}
    taken: dict[str, str] = {}
    for name, short in names.items():
        if taken.setdefault(short, name) != name:
            raise CannotEmitError(
                f"{name!r} and {taken[short]!r} would both be {short!r}: no model of llama.cpp's kind"
            )
    return "".join(f"{re.escape(names[name])}={_type_of(name, spec)}\n" for name, spec in formats.items())


def name_of(name: str, role: Role) -> str:
    """What llama.cpp calls a tensor.

    Raises:
        CannotEmitError: for a tensor that it has no name for, or calls otherwise.
    """
    if name.startswith("blk.") and name.endswith(".weight"):
        return name  # of a GGUF file
    known = role.kind in (_OUTSIDE if role.layer is None else _IN_BLOCKS)
    if not known or role.expert is not None:
        raise CannotEmitError(f"{name!r}: llama.cpp's name of it is not known; emit to a .json file, or --exclude it")
    block = "" if role.layer is None else f"blk.{role.layer}."
    return f"{block}{role.kind}.weight"


def _type_of(name: str, spec: str) -> str:
    if (found := (_GGML | _PLAIN).get(spec)) is not None:
        return found
    raise CannotEmitError(f"{name!r}: no GGUF file holds {spec}; choose among --formats {' '.join(_GGML)}")


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
