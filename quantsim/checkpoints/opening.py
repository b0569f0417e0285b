"""Checkpoints by their path: a file, a file in parts, or a folder; nothing but headers is read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from quantsim.checkpoints import folders, gguf_header, npy_header, safetensors_header, scales
from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry, Header
from quantsim.checkpoints.errors import CheckpointError
from quantsim.checkpoints.files import Bytes, Stamp, opened
from quantsim.checkpoints.foreign import why_foreign

_Reader: TypeAlias = Callable[[Bytes], Header]
_READERS: dict[str, _Reader] = {
    "safetensors": safetensors_header.header_of,
    "gguf": gguf_header.header_of,
    "npy": npy_header.header_of,
}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The tensors of a checkpoint: names, types, shapes and places. None of their numbers is read.

    Args:
        path: an ``.npy``, ``.safetensors`` or ``.gguf`` file, any part of a ``.gguf`` file in parts, an index
            ``*.safetensors.index.json`` with its files beside it, or a folder that holds one of these.

    Raises:
        CheckpointError: if there is none, or it is damaged, truncated, pickled or of another kind.

    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/w.npy", np.zeros((2, 3), np.float32))
    ...     [(entry.name, entry.type, entry.shape) for entry in open_checkpoint(f"{folder}/w.npy").entries]
    [('w', 'F32', (2, 3))]
    """
    path = Path(path)
    try:
        return _opened(path)
    except OSError as failure:
        raise CheckpointError(f"{path}: {failure.strerror or failure}") from None
    except ValueError as failure:  # a NUL in it
        raise CheckpointError(f"{str(path)!r}: no path: {failure}; name a file or folder") from None


def _opened(path: Path) -> Checkpoint:
    chosen = path
    if path.is_dir():
        (chosen,) = folders.beside(path / "any", [folders.in_folder(path)])
    if chosen.name.endswith(folders.INDEX):
        return _sharded(path, chosen)
    kind = chosen.suffix.lower().removeprefix(".")
    if kind not in _READERS:
        raise CheckpointError(f"{chosen}: {why_foreign(chosen)}")
    if kind == "gguf" and len(parts := folders.parts_of(chosen)) > 1:
        return _in_parts(path, parts)
    headers, stamps = _read(kind, [chosen])
    if (count := headers[0].metadata.get("split.count", 1)) != 1 and kind == "gguf":
        wrong = f"part of a file in {count!r} parts, but not named so"
        raise CheckpointError(f"{chosen}: {wrong}; name it as llama-gguf-split does: …-00001-of-00003.gguf")
    return _checkpoint(path, kind, headers, stamps)


def _read(kind: str, paths: Sequence[Path]) -> tuple[list[Header], dict[Path, Stamp]]:
    """What each file says of itself, and by what it is known again."""
    found, stamps = [], {}
    for path in paths:
        with opened(path) as file:
            found.append(_READERS[kind](file))
            stamps[path] = file.stamp
    return found, stamps


def _checkpoint(path: Path, kind: str, headers: list[Header], stamps: dict[Path, Stamp]) -> Checkpoint:
    held: dict[str, Entry] = {}
    for entry in (entry for each in headers for entry in each.tensors):
        if entry.name in held:
            wrong = f"{entry.name!r} is in {held[entry.name].path.name!r}, too; keep one of them"
            raise CheckpointError(f"{entry.path}: {wrong}")
        held[entry.name] = entry
    entries = tuple(scales.with_scale(entry, held) for entry in held.values())
    return Checkpoint(path, kind, headers[0].metadata, entries, stamps)


def _sharded(path: Path, index: Path) -> Checkpoint:
    """The files of an index, which must hold what it says."""
    shards = folders.shards_of(index)
    files = folders.beside(index, sorted(set(shards.values())))
    found = _checkpoint(path, "safetensors", *_read("safetensors", files))
    held = {entry.name: entry.path.name for entry in found.entries}
    again = "download the index and its files again"
    for name, shard in shards.items():
        if held.get(name) != shard:
            where = f"in {held[name]!r}" if name in held else "in none of its files"
            raise CheckpointError(f"{index}: {name!r} is {where}, not in {shard!r}; {again}")
    for name, shard in held.items():
        if name not in shards:
            raise CheckpointError(f"{index}: does not name {name!r} of {shard!r}; {again}")
    return found


def _in_parts(path: Path, parts: Sequence[Path]) -> Checkpoint:
    """A ``.gguf`` file in parts, each of which says which one it is."""
    headers, stamps = _read("gguf", parts)
    for number, (part, each) in enumerate(zip(parts, headers, strict=True)):
        said = each.metadata.get("split.no"), each.metadata.get("split.count")
        if said != (number, len(parts)):
            wrong = f"named part {number + 1} of {len(parts)}, its split.no is {said[0]!r} and split.count {said[1]!r}"
            raise CheckpointError(f"{part}: {wrong}; download all parts again")
    found = _checkpoint(path, "gguf", headers, stamps)
    wanted = found.metadata.get("split.tensors.count")
    if wanted != len(found.entries):
        wrong = f"split.tensors.count is {wanted!r}, the parts hold {len(found.entries)}"
        raise CheckpointError(f"{parts[0]}: {wrong}; download all parts again")
    return found
