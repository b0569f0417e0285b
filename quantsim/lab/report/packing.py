"""Pictures and rows as one text: each compressed by itself and opened when it is first needed.

Every part is a gzip stream without a time, so that the same bytes pack to the same bytes, and its base64 is padded by
itself, so that it can be read without the rest.
"""

import base64
import gzip
import re
from dataclasses import dataclass, field

_SIZE = re.compile(rb'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"')
_PIXELS_A_POINT = 4 / 3


@dataclass
class Packed:
    """Parts by name: first and last character of each in the text.

    >>> packed = Packed()
    >>> packed.add("a", b"one"), packed.add("b", b"two")
    (None, None)
    >>> first, last = packed.places["b"]
    >>> gzip.decompress(base64.b64decode(packed.text[first:last]))
    b'two'
    """

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0

    def add(self, name: str, data: bytes) -> None:
        """Pack a part."""
        piece = base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
        self.places[name] = self._length, self._length + len(piece)
        self._pieces.append(piece)
        self._length += len(piece)

    @property
    def text(self) -> str:
        """All parts in base64."""
        return "".join(self._pieces)


def size_of(svg: bytes) -> tuple[int, int]:
    """Width and height of a figure in pixels of CSS.

    Raises:
        ValueError: if the text does not say them in points.

    >>> size_of(b'<svg width="486pt" height="345.6pt">')
    (648, 461)
    """
    if (found := _SIZE.search(svg[:4096])) is None:
        raise ValueError("a figure does not say its width and height in points")
    width, height = (round(float(n) * _PIXELS_A_POINT) for n in found.groups())
    return width, height
