"""What a family of block formats must say: how a block is searched, valued, written to bytes and read back."""

import abc
from typing import NamedTuple

from jaxtyping import Array, Float, Int, Shaped, UInt8

from quantsim._types import Blocks


class Stored(NamedTuple):
    """What a block stores: one code for each weight and the scales, as they are stored, in the family's own order."""

    codes: Int[Array, "blocks size"]
    scales: tuple[Shaped[Array, "blocks ..."], ...]


class Importance(NamedTuple):
    """Importance of the weights of each block (an imatrix), and the mean square of the row that the block lies in."""

    weights: Blocks
    row_power: Float[Array, "blocks 1"]


class Coding(abc.ABC):
    """Four functions of blocks. Members are frozen dataclasses, so that a copy of a format is equal to it."""

    #: Whether many scales are tried for each block, so that copies of blocks and bytes cost nothing beside it.
    tries = False

    @abc.abstractmethod
    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Codes and scales of float32 weights; errors are weighed by the importance, if there is one."""

    @abc.abstractmethod
    def values(self, stored: Stored) -> Blocks:
        """Float32 weights of codes and scales."""

    @abc.abstractmethod
    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
        """The bytes of each block."""

    @abc.abstractmethod
    def from_bytes(self, data: UInt8[Array, "blocks nbytes"]) -> Stored:
        """Codes and scales of the bytes of each block."""
