"""Pictures and rows as one text of base64, each part opened by itself when it is first needed.

The base64 of a part is padded by itself, so that it can be read without the rest; rows are gzip streams without a time,
so that the same bytes pack to the same bytes.
"""

import base64
import gzip
from dataclasses import dataclass, field


@dataclass
class Packed:
    """Parts by name: first and last character of each in the text.

    >>> packed = Packed()
    >>> packed.add("a", b"one"), packed.add_compressed("b", b"two")
    (None, None)
    >>> first, last = packed.places["b"]
    >>> gzip.decompress(base64.b64decode(packed.text[first:last]))
    b'two'
    """

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0

    def add(self, name: str, data: bytes) -> None:
        """Pack a part as it is."""
        piece = base64.b64encode(data).decode()
        self.places[name] = self._length, self._length + len(piece)
        self._pieces.append(piece)
        self._length += len(piece)

    def add_compressed(self, name: str, data: bytes) -> None:
        """Pack a part as a gzip stream."""
        self.add(name, gzip.compress(data, 9, mtime=0))

    @property
    def text(self) -> str:
        """All parts in base64."""
        return "".join(self._pieces)
