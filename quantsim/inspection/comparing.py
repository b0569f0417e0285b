"""Two checkpoints tensor by tensor: what the making of the second lost, and whether its formats allow that.

A tensor stored as a format that quantsim can make is held against the error of quantsim's own making, the reference's
to the byte: ``ratio = ||made - original|| / ||own - original||``. Searches that weigh errors by an imatrix may lose a
little more in plain weights. A tensor above the limit was made wrongly, or from other weights; where only some blocks
are, they are named.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim.checkpoints import CheckpointError, open_checkpoint
from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry
from quantsim.inspection.ahead import in_order
from quantsim.inspection.errors import MOST_AT_ONCE
from quantsim.inspection.inspecting import FOR_READERS, Progress, Selection
from quantsim.inspection.matching import Pair, pairs
from quantsim.inspection.pieces import CHUNK, PIECE, Chunk, Matrix, Take, chunks
from quantsim.inspection.tensors import matrix_of, reader
from quantsim.quantizer.blockformats import gguf
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.parsing import parse
from quantsim.rows import Rows

#: Largest ratio of a type that is searched by importances: of weights as heavy-tailed as t4 an imatrix whose logarithm
#: has a standard deviation of 2 costs up to 1.18, one of 3 up to 1.34.
SEARCHED = 1.25
#: And of one that is not: what two makers of the same bytes can differ by where a quotient is a tie.
ROUNDED = 1.01
#: The same of a block, which counts as having at least the mean block's error: up to 2.8 and 5.4 were seen.
BLOCK = 6.0
#: A block is lost where zeros would err about as little, ||e||^2 of ||w||^2, and its own making errs half as much or
#: less: of q2_k six times an own error is more than any weights. Searches by an imatrix reached 0.47.
LOST, OF_OWN = 0.95, 2.0

EXACT, ALLOWED, WORSE, PLACES, UNKNOWN = "exact", "as its format allows", "worse", "worse in places", "not known"
_PLACES = 0.1  # of the blocks: where more of them err too much, it is the tensor that does
_CASTS = {"F16": "f16", "BF16": "bf16", "F8_E4M3": "e4m3", "F8_E5M2": "e5m2"}


@dataclass(frozen=True)
class Comparison:
    """What was lost.

    Attributes:
        rows: of each tensor of both: types, errors, what its format allows, a verdict.
        left_out: tensors that cannot be compared, with the reason.
        only_original: names that only the original has.
        only_other: names that only the other has.
    """

    rows: Rows
    left_out: Rows
    only_original: list[str]
    only_other: list[str]

    @property
    def is_as_allowed(self) -> bool:
        """Whether no tensor is worse than its format allows."""
        return all(row["verdict"] not in (WORSE, PLACES) for row in self.rows)


def compare(
    original: str | Path, other: str | Path, *, select: Selection | None = None, progress: Progress | None = None
) -> Comparison:
    """Every tensor of one checkpoint against the same tensor of another.

    Args:
        original: what was quantized.
        other: what was made of it. Tensors are matched by name or, between naming schemes, by role; heads whose rows
            llama.cpp turned for its rotary embedding are turned back.
        select: which tensors, by their names in the original.
        progress: told after each tensor.

    Raises:
        CheckpointError: for a file that cannot be read, or two of which no tensor can be compared.
    """
    first, second = open_checkpoint(original), open_checkpoint(other)
    matched, only_original, only_other = pairs(first, second)
    chosen = [pair for pair in matched if (select or Selection()).has(pair.original.name)]
    if not chosen:
        raise CheckpointError(f"{original} and {other} have no tensor in common, by name or by role")
    rows, left_out, done, total = Rows(), Rows(), 0, sum(pair.original.size for pair in chosen)
    for pair in chosen:
        try:
            rows.append(_row(first, second, pair))
        except (CheckpointError, ValueError) as failure:
            left_out.append({"tensor": pair.original.name, "reason": str(failure).replace(FOR_READERS, "")})
        done += pair.original.size
        if progress is not None:
            progress(done, total, pair.original.name)
    if not rows:
        reasons = "; ".join(f"{row['tensor']!r} {row['reason']}" for row in left_out[:3])
        raise CheckpointError(f"{original} and {other}: no tensor can be compared: {reasons}")
    return Comparison(rows, left_out, only_original, only_other)


def _row(first: Checkpoint, second: Checkpoint, pair: Pair) -> dict[str, Any]:
    one, other = pair.original, pair.other
    matrix, made_of = matrix_of(one, pair.role), matrix_of(other, pair.other_role)
    if matrix != made_of:
        raise ValueError(f"has shape {one.shape}, and {other.name!r} of the other {other.shape}")
    take, made = reader(first, one, pair.role), reader(second, other, pair.other_role)
    maker = maker_of(other)
    found = _sums(take, made, matrix, maker)
    how = ""
    if found.relative > 0.5 and (turned := _turned(take, matrix, second, pair)) is not None:
        again = _sums(turned, made, matrix, maker)
        if again.relative < found.relative:
            found, how = again, "rows of heads turned"
    about = {"tensor": one.name, "other": other.name, "role": pair.role.kind, "layer": pair.role.layer}
    about |= {"type": one.type, "other_type": other.type, "shape": list(one.shape), "weights": one.size}
    about |= {"bits": 8 * one.nbytes / one.size, "other_bits": 8 * other.nbytes / other.size, "note": how}
    return about | _columns(found, matrix, maker)


def maker_of(entry: Entry) -> AbstractQuantizer | None:
    """The quantizer that makes what a tensor is stored as, None where quantsim has none."""
    if entry.type.startswith(("IQ1", "IQ2", "IQ3")):  # made with importances that no one knows, which matter more there
        return None
    if entry.type in gguf.TYPES:
        return gguf.TYPES[entry.type]
    if entry.scaled_by:  # chosen by who made the file, and by no rule that all follow
        return None
    return parse(_CASTS[entry.type]) if entry.type in _CASTS else None


# --- sums -----------------------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """Of a tensor, or of a part of it: squares, the largest error, and blocks that err too much.

    Attributes:
        power: sum of w^2.
        made: sum of squared errors.
        own: of quantsim's own making, None where it has none.
        max_abs: largest |error|, and where it is.
        blocks: how many there are, how many err too much, and the first weight of the first of them.
    """

    power: float = 0.0
    made: float = 0.0
    own: float | None = None
    max_abs: tuple[float, int] = (0.0, 0)
    blocks: int = 0
    worse: int = 0
    worse_at: int | None = None

    @property
    def relative(self) -> float:
        """||made - original|| / ||original||."""
        if not self.power:
            return float("inf") if self.made else 0.0
        return float(np.sqrt(self.made / self.power))

    def add(self, part: "_Sums") -> None:
        """See the next part."""
        self.power, self.made = self.power + part.power, self.made + part.made
        self.own = None if part.own is None else (self.own or 0.0) + part.own
        self.max_abs = max(self.max_abs, part.max_abs, key=_magnitude)
        self.blocks, self.worse = self.blocks + part.blocks, self.worse + part.worse
        self.worse_at = part.worse_at if self.worse_at is None else self.worse_at


def _magnitude(found: tuple[float, int]) -> float:
    return found[0]


def _columns(found: _Sums, matrix: Matrix, maker: AbstractQuantizer | None) -> dict[str, Any]:
    """Errors, what the format allows, and the verdict."""
    largest, at = found.max_abs
    with np.errstate(divide="ignore"):
        sqnr = float(-20 * np.log10(np.float64(found.relative)))
    row: dict[str, Any] = {"rel_rms": found.relative, "sqnr_db": sqnr, "max_abs": largest}
    row |= {"max_at": list(divmod(at, matrix.columns)), "allowed_rel_rms": None, "ratio": None}
    row |= {"blocks": found.blocks, "worse_blocks": found.worse, "worse_at": None}
    if not found.made:
        return row | {"verdict": EXACT}
    if found.own is None or maker is None:
        return row | {"verdict": UNKNOWN}
    row["allowed_rel_rms"] = float(np.sqrt(found.own / found.power)) if found.power else 0.0
    row["ratio"] = float(np.sqrt(found.made / found.own)) if found.own else float("inf")
    if found.worse_at is not None:
        row["worse_at"] = list(divmod(found.worse_at, matrix.columns))
    if 0 < found.worse <= _PLACES * found.blocks:
        return row | {"verdict": PLACES}
    limit = SEARCHED if isinstance(maker, BlockFormat) and maker.takes_imatrix else ROUNDED
    return row | {"verdict": WORSE if found.worse or row["ratio"] > limit else ALLOWED}


def _sums(take: Take, made: Take, matrix: Matrix, maker: AbstractQuantizer | None) -> _Sums:
    """Sums over a tensor, in flat chunks: every type that has a maker stores blocks, or weights by themselves."""
    flat = Matrix(1, matrix.size)
    if isinstance(maker, BlockFormat) and matrix.columns % maker.size:
        maker = None  # a file that stores it so has no rows of whole blocks
    total, parts = _Sums(own=None if maker is None else 0.0), zip(chunks(take, flat), chunks(made, flat), strict=True)
    for number, part in enumerate(in_order(partial(_of_chunks, maker), parts)):
        total.add(_moved(part, number * CHUNK))
    return total


def _of_chunks(maker: AbstractQuantizer | None, pair: tuple[Chunk, Chunk]) -> _Sums:
    block = maker.size if isinstance(maker, BlockFormat) else PIECE
    original, count = pair[0].weights, pair[0].count
    w = original.astype(np.float64)
    e = np.abs(pair[1].weights - w)
    at = int(e.argmax())
    found = _Sums(float((w * w).sum()), float((e * e).sum()), None, (float(e[at]), at))
    if maker is None:
        return found
    own = np.asarray(maker.roundtrip(original.reshape(-1, max(block, PIECE)))).reshape(-1) - w
    blocks = -(-count // block)
    made_of_block, own_of_block, power = (np.square(x).reshape(-1, block).sum(axis=1)[:blocks] for x in (e, own, w))
    least = np.maximum(own_of_block, own_of_block.mean())
    lost = (made_of_block >= LOST * power) & (made_of_block > OF_OWN**2 * least)
    worse = np.flatnonzero(lost | (made_of_block > BLOCK**2 * least))
    found.own, found.blocks, found.worse = float(own_of_block.sum()), blocks, int(worse.size)
    found.worse_at = int(worse[0]) * block if worse.size else None
    return found


def _moved(part: _Sums, by: int) -> _Sums:
    """A part with its places in the whole tensor."""
    largest, at = part.max_abs
    worse_at = None if part.worse_at is None else part.worse_at + by
    return replace(part, max_abs=(largest, at + by), worse_at=worse_at)


# --- heads ----------------------------------------------------------------------------------------------------------


def _turned(take: Take, matrix: Matrix, other: Checkpoint, pair: Pair) -> Take | None:
    """The rows of each head as llama.cpp orders them for LLaMA: first and second half interleaved; None elsewhere.

    Source: llama.cpp, ``LlamaModel.permute`` of its converter.
    """
    kind = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(pair.role.kind)
    architecture = other.metadata.get("general.architecture")
    heads = other.metadata.get(f"{architecture}.attention.{kind}")
    if kind is None or not isinstance(heads, int) or heads < 1 or matrix.rows % (2 * heads):
        return None
    if matrix.size > MOST_AT_ONCE:
        return None
    w = take(0, matrix.size).reshape(heads, 2, matrix.rows // heads // 2, matrix.columns)
    flat = np.ascontiguousarray(w.swapaxes(1, 2)).reshape(-1)

    def part(first: int, count: int) -> NDArray[np.float32]:
        return flat[first : first + count]

    return part


def rows_in_order(found: Comparison) -> Iterator[dict[str, Any]]:
    """Rows of tensors, those that are worse than allowed first, then by error."""
    yield from sorted(found.rows, key=_worst_first)


def _worst_first(row: dict[str, Any]) -> tuple[bool, float]:
    return row["verdict"] not in (WORSE, PLACES), -row["rel_rms"]
