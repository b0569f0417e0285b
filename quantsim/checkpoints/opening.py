"""Checkpoints by their path: a file, a file in parts, or a folder; nothing but headers is read."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from quantsim.checkpoints import folders, gguf_contents, npy_header, safetensors_header
from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry
from quantsim.checkpoints.errors import CheckpointError
from quantsim.checkpoints.files import Bytes, Stamp, opened
from quantsim.checkpoints.safetensors_header import Contents

_Reader: TypeAlias = Callable[[Bytes], Contents]
_READERS: dict[str, _Reader] = {
    "safetensors": safetensors_header.read_contents,
    "gguf": gguf_contents.read_contents,
    "npy": npy_header.read_contents,
}
_SCALES = ("_scale_inv", "_scale")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The tensors of a checkpoint: names, types, shapes and places. None of their numbers is read.

    Args:
        path: an ``.npy``, ``.safetensors`` or ``.gguf`` file, any part of a ``.gguf`` file in parts, or a folder that
            holds one of them, or ``*.safetensors.index.json`` with its files.

    Raises:
        CheckpointError: if there is none, or it is damaged, truncated, pickled or of another kind.
    """
    path = Path(path)
    chosen = folders.in_folder(path) if path.is_dir() else path
    if chosen != path:
        folders.check_inside(chosen)
    if chosen.name.endswith(folders.INDEX):
        return _sharded(path, chosen)
    kind = chosen.suffix.lower().removeprefix(".")
    if kind not in _READERS:
        raise _foreign(chosen)
    if kind == "gguf" and len(parts := folders.parts_of(chosen)) > 1:
        return _in_parts(path, parts)
    return _checkpoint(path, kind, *_read(kind, [chosen]))


def _foreign(path: Path) -> CheckpointError:
    what = path.suffix or "a file without extension"
    reason = "pickled formats (.pt, .bin, .pkl) are never opened: convert to .safetensors or .npy"
    return CheckpointError(f"{path}: cannot read {what}; {reason}")


def _read(kind: str, paths: Sequence[Path]) -> tuple[list[Contents], dict[Path, Stamp]]:
    """What each file says of itself, and by what it is known again."""
    found, stamps = [], {}
    for path in paths:
        with opened(path) as file:
            found.append(_READERS[kind](file))
            stamps[path] = file.stamp
    return found, stamps


def _checkpoint(path: Path, kind: str, contents: list[Contents], stamps: dict[Path, Stamp]) -> Checkpoint:
    entries = [entry for each in contents for entry in each.entries]
    held: dict[str, Path] = {}
    for entry in entries:
        if entry.name in held:
            raise CheckpointError(f"{entry.path}: {entry.name!r} is in {held[entry.name]}, too; keep one of them")
        held[entry.name] = entry.path
    scaled = tuple(replace(e, scaled_by=_scale_of(e, held)) if e.type.startswith("F8_") else e for e in entries)
    return Checkpoint(path, kind, contents[0].metadata, scaled, tuple(stamps), stamps)


def _scale_of(entry: Entry, names: dict[str, Path]) -> str | None:
    """The tensor of scales beside one of fp8, as DeepSeek and compressed-tensors name it."""
    return next((entry.name + end for end in _SCALES if entry.name + end in names), None)


def _sharded(path: Path, index: Path) -> Checkpoint:
    """The files of an index, which must hold what it says."""
    shards = folders.shards_of(index)
    files = [index.with_name(name) for name in sorted(set(shards.values()))]
    for file in files:
        folders.check_inside(file)
    found = _checkpoint(path, "safetensors", *_read("safetensors", files))
    held = {entry.name: entry.path.name for entry in found.entries}
    for name, shard in shards.items():
        if held.get(name) != shard:
            where = f"is in {held[name]!r}" if name in held else "is in none of its files"
            raise CheckpointError(f"{index}: {name!r} {where}, not in {shard!r}; download all of them again")
    for name in held.keys() - shards.keys():
        raise CheckpointError(f"{index}: does not name {name!r} of {held[name]!r}; download all of them again")
    return found


def _in_parts(path: Path, parts: Sequence[Path]) -> Checkpoint:
    """A ``.gguf`` file in parts, each of which says which one it is."""
    for part in parts:
        folders.check_inside(part)
    contents, stamps = _read("gguf", parts)
    for number, (part, each) in enumerate(zip(parts, contents, strict=True)):
        said = each.metadata.get("split.no"), each.metadata.get("split.count")
        if said != (number, len(parts)):
            wrong = f"named part {number + 1} of {len(parts)}, its split.no and split.count are {said[0]} and {said[1]}"
            raise CheckpointError(f"{part}: {wrong}; download all parts again")
    found = _checkpoint(path, "gguf", contents, stamps)
    wanted = found.metadata.get("split.tensors.count")
    if wanted != len(found.entries):
        wrong = f"split.tensors.count is {wanted}, the parts hold {len(found.entries)}"
        raise CheckpointError(f"{parts[0]}: {wrong}; download all parts again")
    return found
