"""How bytes of a GGUF type are weights: the facts of a block, and the function of blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantsim._types import Shape


@dataclass(frozen=True)
class Layout:
    """A type as its bytes are read.

    Attributes:
        size: weights of a block.
        nbytes: bytes of a block.
        values: uint8 (blocks, nbytes) to the float32 weights in their order, (blocks, ...) of the axes that the loops
            over them have: a last reshape to (blocks, size) takes XLA the vectors out of them.
    """

    size: int
    nbytes: int
    values: Callable[[Any], Any]

    def shape(self, data: Shape) -> Shape:
        """Shape of the weights of bytes of that shape."""
        return (*data[:-1], data[-1] // self.nbytes * self.size)
