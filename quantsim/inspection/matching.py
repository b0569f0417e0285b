"""Which tensors of two checkpoints are the same: by name or, between naming schemes, by the role that they play."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry
from quantsim.inspection.importances import base
from quantsim.inspection.roles import Role, roles


class Pair(NamedTuple):
    """A tensor of the original, the same of the other checkpoint, and the roles they play."""

    original: Entry
    other: Entry
    role: Role
    other_role: Role


#: What tells tensors of different naming schemes: kind, layer, expert, and whether it is a bias.
_Key = tuple[str, int | None, int | None, str]


def pairs(original: Checkpoint, other: Checkpoint) -> tuple[list[Pair], list[str], list[str]]:
    """Tensors of both, then names that only the original has, and those that only the other has.

    Args:
        original: what was quantized, for example a folder of safetensors files.
        other: what was made of it, for example a GGUF file.
    """
    mine, theirs = ({base(e.name): e for e in c.entries} for c in (original, other))
    found = {name: theirs[name] for name in mine if name in theirs}
    of_mine, of_theirs = (
        roles([e.name for e in c.entries], {e.name: e.shape for e in c.entries}) for c in (original, other)
    )
    keyed = {key: name for key, name in _unique(theirs, of_theirs) if name not in mine}
    for key, name in _unique(mine, of_mine):
        if name not in found and key in keyed:
            found[name] = theirs[keyed[key]]
    if not found and len(mine) == len(theirs) == 1:  # arrays, that are called what their files are called
        found = dict(zip(mine, theirs.values(), strict=True))
    matched = [Pair(mine[n], e, of_mine[mine[n].name], of_theirs[e.name]) for n, e in found.items()]
    taken = {pair.other.name for pair in matched}
    left = [e.name for name, e in mine.items() if name not in found]
    return matched, left, [e.name for e in other.entries if e.name not in taken]


def _unique(named: dict[str, Entry], found: dict[str, Role]) -> Iterator[tuple[_Key, str]]:
    """Keys that one tensor has, and its name."""
    keys = {name: _key(entry, found[entry.name]) for name, entry in named.items()}
    counts = Counter(keys.values())
    yield from ((key, name) for name, key in keys.items() if counts[key] == 1 and key[0] != "other")


def _key(entry: Entry, role: Role) -> _Key:
    return role.kind, role.layer, role.expert, "bias" if base(entry.name).endswith(".bias") else ""
