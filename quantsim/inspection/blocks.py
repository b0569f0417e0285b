"""Which block of a network a tensor belongs to, and the number of each block in the order in which data flow.

Names are what a stranger wrote. They are cut into words at their dots, and words are looked up: no pattern is searched
for, and the time is proportional to the length of a name.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from quantsim.inspection import block_names as words

_LONGEST_NAME = 512  # characters; a longer one is no path of a model
_LONGEST_NUMBER = 4  # digits
_BEHIND = 10**_LONGEST_NUMBER  # a stage's sampler stands behind all of its blocks

Path: TypeAlias = tuple[str, ...]
#: Number of a block among those of its sequence, stage by stage.
Numbers: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, order=True)
class BlockSequence:
    """Blocks that data pass one after another; the order of sequences is the order in which data pass them."""

    towers: tuple[int, ...]
    stage: int
    place: str


@dataclass(frozen=True)
class Block:
    """Where a block stands.

    Attributes:
        sequence: the blocks that it is one of.
        numbers: its own, and those of its stages before it.
        place: what precedes its number, for people.
        end: how many words of the path lead to it.
    """

    sequence: BlockSequence
    numbers: Numbers
    place: str
    end: int

    @property
    def key(self) -> tuple["BlockSequence", Numbers]:
        """What tells it from all other blocks."""
        return self.sequence, self.numbers


def path_of(name: str) -> Path:
    """Words of a name without those at its front that say nothing; none of a name that is too long to be a path.

    >>> path_of("model.language_model.layers.3.mlp.up_proj.weight")
    ('layers', '3', 'mlp', 'up_proj', 'weight')
    """
    if len(name) > _LONGEST_NAME:
        return ()
    parts = name.split(".")
    first = 0
    while first < len(parts) - 1 and parts[first] in words.WRAPPERS:
        first += 1
    return tuple(parts[first:])


def is_number(word: str) -> bool:
    """Whether a word is a plausible number of a block.

    >>> [is_number(word) for word in ("7", "007", "-1", "12345", "٣")]
    [True, True, False, False, False]
    """
    return len(word) <= _LONGEST_NUMBER and word.isascii() and word.isdigit()


def block_of(path: Path) -> Block | None:
    """The block that a path leads into: behind a word for blocks, a number."""
    stage = next((i for i, word in enumerate(path[:-1]) if word in words.UNNUMBERED), len(path))
    numbers = (i + 1 for i, pair in enumerate(pairwise(path)) if pair[0] in words.CONTAINERS and is_number(pair[1]))
    at = next(numbers, len(path))
    if stage < at:
        return _unnumbered(path, stage)
    return _numbered_block(path, at) if at < len(path) else None


def guessed_block(path: Path) -> Block | None:
    """The block that a path of unknown words leads into: behind any word, the first number."""
    at = next((i for i, word in enumerate(path) if i and is_number(word)), None)
    return None if at is None else _numbered_block(path, at)


def _numbered_block(path: Path, at: int) -> Block:
    outer = path[at - 1]
    number = -int(path[at]) if outer in words.BACKWARDS else int(path[at])
    inner = _inner_numbers(path[at + 1 :])
    place = ".".join(path[:at])
    shown = f"{place}.{path[at]}" if inner else place
    return Block(_sequence(path[:at], outer, place), (number, *inner), shown, at + 1)


def _unnumbered(path: Path, at: int) -> Block:
    place = ".".join(path[: at + 1])
    inner = _inner_numbers(path[at + 1 :])
    return Block(_sequence(path[:at], path[at], place), (0, *inner), place, at + 1)


def _inner_numbers(path: Path) -> Numbers:
    """Numbers that data also flow along, below that of a stage."""
    if words.SAMPLERS & set(path):
        return (_BEHIND,)
    pairs = [(word, int(number)) for word, number in pairwise(path) if word in words.INNER and is_number(number)]
    # the first transformer of an attention stands beside the resnet before it, as all of them do in LDM's names
    return tuple(number for word, number in pairs if (word, number) != ("transformer_blocks", 0))


def _sequence(before: Path, outer: str, place: str) -> BlockSequence:
    towers = tuple(words.TOWERS[word] for word in before if word in words.TOWERS)
    return BlockSequence(towers or (words.MAIN,), words.STAGES.get(outer, 0), place)


def numbered(blocks: Sequence[Block]) -> dict[tuple[BlockSequence, Numbers], int]:
    """Layers: a plain number keeps its distance from the first, so that a part of a file is numbered as the whole."""
    members: dict[BlockSequence, set[Numbers]] = defaultdict(set)
    for block in blocks:
        members[block.sequence].add(block.numbers)
    found, first = {}, 0
    for sequence in sorted(members):
        numbers = members[sequence]
        plain = all(len(n) == 1 and n[0] >= 0 for n in numbers)
        within = {n: n[0] for n in numbers} if plain else {n: i for i, n in enumerate(sorted(numbers))}
        found |= {(sequence, n): first + i for n, i in within.items()}
        first += max(within.values()) + 1
    return found
