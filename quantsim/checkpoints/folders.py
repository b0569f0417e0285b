"""Which files are a checkpoint: one, the parts that an index or a name tells of, or what a folder holds."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from quantsim.checkpoints import json_text
from quantsim.checkpoints.entries import MOST_BYTES_OF_HEADER, checked_name
from quantsim.checkpoints.errors import CheckpointError
from quantsim.checkpoints.files import opened

INDEX = ".safetensors.index.json"
#: What a folder's own weights are called, by transformers and by diffusers.
_STANDARD = ("model", "diffusion_pytorch_model")
_MOST_FILES = 100_000
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def in_folder(folder: Path) -> str:
    """The one checkpoint of a folder: a file, an index, or the first part of a file in parts.

    Beside ``model.safetensors`` or an index other ``.safetensors`` files are passed over: shards, variants, adapters.

    Raises:
        CheckpointError: if there is none or more than one.
    """
    names = _names(folder)
    usual = [f"{stem}{ending}" for stem in _STANDARD for ending in (".safetensors", INDEX)]
    found = (
        [n for n in usual if n in names]
        or [n for n in names if n.endswith(INDEX)]
        or [n for n in names if n.endswith(".safetensors")]
    )
    found += _gguf_files(names)
    if len(found) == 1:
        return found[0]
    if found:
        held = ", ".join(map(repr, found[:8])) + " …" * (len(found) > 8)
        raise CheckpointError(f"{folder}: holds more than one checkpoint: {held}; name one of them")
    raise CheckpointError(f"{folder}: no checkpoint in this folder{_pickled(names)}; name a file")


def _names(folder: Path) -> list[str]:
    """Names of what is in a folder."""
    try:
        found = [path.name for path, _ in zip(folder.iterdir(), range(_MOST_FILES + 1), strict=False)]
    except OSError as failure:
        raise CheckpointError(f"{folder}: {failure.strerror or failure}") from None
    if len(found) > _MOST_FILES:
        raise CheckpointError(f"{folder}: holds more than {_MOST_FILES} files; name one of them")
    return sorted(found)


def _gguf_files(names: Iterable[str]) -> list[str]:
    """Files, and of each file in parts the first part that is there."""
    found: dict[tuple[str, str], str] = {}
    for name in names:
        part = PART.fullmatch(name)
        if name.endswith(".gguf"):
            found.setdefault((name, "") if part is None else (part["stem"], part["count"]), name)
    return list(found.values())


def _pickled(names: Iterable[str]) -> str:
    found = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    return f": {found[0]!r} is pickled, and pickles can run code; convert it to .safetensors" if found else ""


def shards_of(index: Path) -> dict[str, str]:
    """File of each tensor, as an index says.

    Raises:
        CheckpointError: for a damaged index, or a file that is not one beside it.
    """
    with opened(index) as file:
        if file.size > MOST_BYTES_OF_HEADER:
            raise CheckpointError(f"{index}: {file.size} bytes, at most {MOST_BYTES_OF_HEADER} are read of an index")
        raw = file.read(0, file.size)
    try:
        found = json_text.loads(raw)
        shards = found.get("weight_map") if isinstance(found, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise ValueError("it has no weight_map of names and files")
        for name in shards:
            checked_name(name)
        for name in set(map(_text, shards.values())):
            _check_beside(name)
    except ValueError as failure:
        raise CheckpointError(f"{index}: damaged: {failure}; download or write it again") from None
    return shards


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"a file is called {repr(name)[:80]}, which is no text")
    return name


def _check_beside(name: str) -> None:
    """That a name is that of a file in the same folder."""
    plain = PurePosixPath(name).name == name and not set("\\:\0") & set(name)
    if not plain or not name.isprintable() or len(name.encode()) > 255 or not name.endswith(".safetensors"):
        raise ValueError(f"{name[:80]!r} is no .safetensors file beside it")


def parts_of(path: Path) -> list[Path]:
    """All parts of a ``.gguf`` file that is named as one of them; else the file alone.

    Raises:
        CheckpointError: for a number that is not in the count, naming parts that are missing.
    """
    part = PART.fullmatch(path.name)
    if part is None:
        return [path]
    count, number = int(part["count"]), int(part["number"])
    if not 1 <= number <= count:
        raise CheckpointError(f"{path}: part {number} of {count}: there is none; name it as llama-gguf-split does")
    names = [f"{part['stem']}-{n:05d}-of-{part['count']}.gguf" for n in range(1, count + 1)]
    return beside(path, names)


def beside(path: Path, names: Sequence[str]) -> list[Path]:
    """Files beside another one, by their names.

    Raises:
        CheckpointError: naming those that are missing, and a link out of the folder.
    """
    found = [path.with_name(name) for name in names]
    missing = [other.name for other in found if not os.path.lexists(other)]
    if missing:
        held = ", ".join(map(repr, missing[:4])) + " …" * (len(missing) > 4)
        raise CheckpointError(f"{path}: {len(missing)} of {len(names)} files are missing: {held}; download them, too")
    for other in found:
        check_inside(other)
    return found


def check_inside(path: Path) -> None:
    """That a file chosen by its name is in its folder, and no link to elsewhere.

    A cache of Hugging Face holds ``models--*/snapshots/x/model.safetensors`` as a link to ``models--*/blobs``: within
    its ``models--*`` links are followed.

    Raises:
        CheckpointError: for a link that leaves.
    """
    try:
        folder, target = path.parent.resolve(), path.resolve()
    except (OSError, RuntimeError):  # of links in a circle
        raise CheckpointError(f"{path}: a link that leads nowhere; put the file itself there") from None
    if not any(target.is_relative_to(root) for root in (folder, *_cache_of(folder))):
        wrong = f"a link to {str(target)!r}, out of its folder, which is not followed"
        raise CheckpointError(f"{path}: {wrong}; put the file itself there, or name it")


def _cache_of(folder: Path) -> list[Path]:
    """The folder ``models--*`` of a cache that has this one as a snapshot."""
    return [
        parent.parent
        for parent in (folder, *folder.parents)
        if parent.name == "snapshots" and parent.parent.name.startswith("models--")
    ]
