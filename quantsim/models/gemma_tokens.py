"""Text to tokens and back, by SentencePiece, from the vocabulary that a GGUF file carries.

GGUF files keep the pieces, scores and types of a SentencePiece model, in its own numbers of types, but not the model;
here it is put together again: pairs of pieces are merged, the one of highest score first, characters that no piece has
become bytes, runs of spaces and tags are pieces that their text always becomes, and no space is put in front.
"""

import importlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

_UNKNOWN, _USERS, _BYTES = 2, 4, 6  # types of pieces
_BPE, _MODEL_TYPE, _BYTE_FALLBACK, _UNK_ID, _UNK_PIECE = 2, 3, 35, 40, 45  # fields of SentencePiece's TrainerSpec


def processor(metadata: Mapping[str, Any]) -> Any:
    """The ``SentencePieceProcessor`` of the vocabulary in the metadata of a GGUF file.

    Raises:
        ValueError: if they hold no vocabulary of SentencePiece's kind.
        ModuleNotFoundError: without the extra ``real``.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "llama":
        raise ValueError(f"the file's vocabulary is of kind {kind!r}; only 'llama', SentencePiece's, is read here")
    needed = [f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type")]
    if absent := [key for key in needed if key not in metadata]:
        raise ValueError(f"the file's vocabulary is incomplete: {', '.join(absent)} missing")
    tokens, scores, types = (metadata[key] for key in needed)
    if not len(tokens) == len(scores) == len(types):
        raise ValueError(f"the vocabulary has {len(tokens)} tokens, {len(scores)} scores and {len(types)} types")
    unknown = int(metadata.get("tokenizer.ggml.unknown_token_id", 0))
    made = importlib.import_module("sentencepiece").SentencePieceProcessor()
    made.LoadFromSerializedProto(_model(tokens, scores, types, unknown=unknown))
    return made


def encode(spp: Any, text: str, *, bos: int | None) -> Int[np.ndarray, " tokens"]:
    """Numbers of the tokens of a text, ``bos``, the one that begins texts, in front unless it is None."""
    return np.array([*([] if bos is None else [bos]), *spp.encode(text)], np.int32)


def decode(spp: Any, tokens: Iterable[Any]) -> str:
    """The text of tokens; bytes that are no UTF-8 become replacement characters."""
    return spp.decode([int(t) for t in tokens])


# --- a model of SentencePiece, in the wire format of protocol buffers ------------------------------------------------


def _model(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], *, unknown: int) -> bytes:
    """A serialized ModelProto: pieces (field 1), trainer (2) and normalizer (3). One piece only is the unknown one."""
    pieces = []
    for number, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        kind = _UNKNOWN if number == unknown else kind
        token = token.replace(" ", "▁") if kind == _USERS else token  # which llama.cpp keeps as in the text
        text = _field(1, token.encode())
        pieces.append(_field(1, text + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind)))
    fallback = int(any(kind == _BYTES for kind in types))
    trainer = (
        _number(_MODEL_TYPE, _BPE)
        + _number(_BYTE_FALLBACK, fallback)
        + _number(_UNK_ID, unknown)
        + _field(_UNK_PIECE, tokens[unknown].encode())
    )
    # no dummy space in front, no spaces removed, spaces written as ▁
    normalizer = _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _varint(n: int) -> bytes:
    """Seven bits a byte, the lowest first.

    >>> _varint(300).hex()
    'ac02'
    """
    found = b""
    while n >= 128:
        found, n = found + bytes([n & 127 | 128]), n >> 7
    return found + bytes([n])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
