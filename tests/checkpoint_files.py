"""Checkpoint files made byte by byte, right ones and wrong ones, independent of what reads them."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Numbers of types, as GGUF files have them.
F32, F16, Q4_0, Q8_0, Q4_K, IQ1_M, I32 = 0, 1, 2, 8, 12, 29, 26
#: And of the types of metadata.
U8, UINT16, U32, BOOL, STRING, ARRAY = 0, 2, 4, 7, 8, 9


# --- safetensors ----------------------------------------------------------------------------------------------------


def with_header(header: Mapping | str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of this header, which may be any text, and this length, which may be wrong."""
    raw = json.dumps(header).encode() if isinstance(header, Mapping) else header
    raw = raw.encode() if isinstance(raw, str) else raw
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def facts(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def one(dtype: object = "F32", shape: object = (2, 3), nbytes: int = 24, **changed: object) -> bytes:
    """A file of one tensor ``w`` with so many bytes; ``changed`` are other facts of it."""
    return with_header({"w": facts(dtype, shape, 0, nbytes) | changed}, bytes(nbytes))


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], bytes]], metadata: Mapping | None = None) -> bytes:
    """A right file of (type, shape, bytes) by name."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = facts(dtype, shape, len(data), len(data) + len(raw))
        data += raw
    return with_header(header, data)


def f32(array: object) -> tuple[str, Sequence[int], bytes]:
    """An array for ``safetensors``."""
    found = np.asarray(array, "<f4")
    return "F32", found.shape, found.tobytes()


# --- gguf -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF file; ``offset`` is where its bytes lie if that is not behind those before."""

    name: str | bytes
    shape: Sequence[int]
    kind: int
    data: bytes
    offset: int | None = None
    axes: int | None = None


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def u32(key: str, value: int) -> bytes:
    return pair(key, U32, struct.pack("<I", value))


def listed(key: str, kind: int, count: int, raw: bytes) -> bytes:
    return pair(key, ARRAY, struct.pack("<IQ", kind, count) + raw)


def gguf(
    tensors: Sequence[Tensor] = (),
    pairs: Sequence[bytes] = (),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A GGUF file; ``counts`` are those of tensors and pairs, if they are to be wrong."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs)))) + b"".join(pairs)
    data = b""
    for tensor in tensors:
        offset = len(data) if tensor.offset is None else tensor.offset
        axes = len(tensor.shape) if tensor.axes is None else tensor.axes
        head += text(tensor.name) + struct.pack("<I", axes)
        head += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1]) + struct.pack("<IQ", tensor.kind, offset)
        data += tensor.data + bytes(-len(tensor.data) % alignment)
    return head + bytes(-len(head) % alignment) + data


def floats(name: str | bytes = "w", shape: Sequence[int] = (2, 3), **changed: object) -> Tensor:
    """A tensor of zeros."""
    return Tensor(name, shape, F32, bytes(4 * int(np.prod(shape))), **changed)  # type: ignore[arg-type]


# --- npy ------------------------------------------------------------------------------------------------------------


def npy(header: str, data: bytes = b"", *, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """An ``.npy`` file of this header, which may be any text, and this length, which may be wrong."""
    raw = header.encode() + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(raw) if length is None else length)
    return b"\x93NUMPY" + version + size + raw + data


def described(descr: str = "<f4", shape: str = "(2, 3)", order: bool = False) -> str:
    """The header that numpy.save writes."""
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"


# --- folders --------------------------------------------------------------------------------------------------------


def filled(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def index(weight_map: object, **more: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map, **more}).encode()


def part(
    number: int, count: int, tensors: Sequence[Tensor], total: int, *, said: tuple[int, int] | None = None
) -> bytes:
    """Part ``number`` (from 0) of a GGUF file in parts; ``said`` is what it says of itself, if that is to be wrong."""
    said_number, said_count = said or (number, count)
    pairs = [
        pair("split.no", UINT16, struct.pack("<H", said_number)),
        pair("split.count", UINT16, struct.pack("<H", said_count)),
        pair("split.tensors.count", 5, struct.pack("<i", total)),
    ]
    return gguf(tensors, pairs)


def part_name(number: int, count: int, stem: str = "w") -> str:
    return f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
