"""A checkpoint, tensor by tensor: ``inspect`` and what it returns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from quantsim.checkpoints import CheckpointError, TensorError, open_checkpoint
from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry
from quantsim.inspection import advice, importances
from quantsim.inspection.advice import Advice, Kept, Uniform
from quantsim.inspection.budget import Point
from quantsim.inspection.emitting import text_for
from quantsim.inspection.kept import KeptRows
from quantsim.inspection.roles import Role, roles
from quantsim.inspection.tensors import Request, rows_of, takes_formats
from quantsim.quantizer.blockformats import gguf
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.scaled import Quantizer
from quantsim.rows import Rows

#: What is tried where nothing is asked for: llama.cpp's K-quants and q8_0, and what accelerators multiply.
FORMATS = (
    "q8_0",
    "q6_k",
    "q5_k",
    "q4_k",
    "q3_k",
    "q2_k",
    "int8:channel",
    "e4m3:channel",
    "int4:block128:minmax",
    "nf4:block64",
    "mxfp4",
    "nvfp4",
)

#: Ends the reason of a NaN; no way out for an inspection, which has no numbers for it.
FOR_READERS = ', or pass nonfinite="propagate"'

#: Told (weights times formats done, of all, which tensor).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Selection:
    """Which tensors are looked at: patterns of names, as of files in a folder.

    Attributes:
        include: at least one must match, if there are any.
        exclude: none may match.

    >>> chosen = Selection(include=("*attn*",), exclude=("blk.0.*",))
    >>> [chosen.has(name) for name in ("blk.0.attn_q", "blk.1.attn_q", "blk.1.ffn_up")]
    [False, True, False]
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether a tensor of this name is looked at."""
        wanted = not self.include or any(fnmatchcase(name, pattern) for pattern in self.include)
        return wanted and not any(fnmatchcase(name, pattern) for pattern in self.exclude)


@dataclass(frozen=True)
class Importance:
    """What an error of a weight counts, if it is not the same for all.

    Attributes:
        imatrix: file of importances of columns, llama.cpp's or a .safetensors of vectors.
        gradients: file of squared gradients of the log-likelihood, a tensor of the shape of each.
    """

    imatrix: Path | None = None
    gradients: Path | None = None


@dataclass(frozen=True, eq=False)
class Inspection:
    """What formats do to a checkpoint.

    Attributes:
        path: of the checkpoint.
        tensors: a row each: shape, role, moments, extremes, fitted population.
        errors: a row for each matrix and format: bits, errors, prediction, damage.
        refused: tensors that cannot be read, with the reason.
        uniform: the model in each format alone, from fewest bits.
        frontier: bits per weight and damage of the best mixtures.
        advice: the best mixture under the budget, if one was given.
        keep: tensors that take half of the damage away where they are kept in a better format.
        reference: the format that ``keep`` compares with.
        unit: of damages: "unweighed", "by imatrix" or "nats".
        roles: of each tensor.
        quantized: whether the file holds quantized tensors, which come dequantized.
        mixed: formats that mixtures are made of.
    """

    path: Path
    tensors: Rows
    errors: Rows
    refused: Rows
    uniform: list[Uniform] = field(default_factory=list)
    frontier: list[Point] = field(default_factory=list)
    advice: Advice | None = None
    keep: list[Kept] = field(default_factory=list)
    reference: str | None = None
    unit: str = "unweighed"
    roles: dict[str, Role] = field(default_factory=dict)
    quantized: bool = False
    mixed: list[str] = field(default_factory=list)

    def rows(self) -> Rows:
        """Everything as rows, told apart by ``kind``."""
        found = Rows([*self.tensors, *self.errors, *self.refused])
        found += [{"kind": "uniform", **asdict(u)} for u in self.uniform]
        found += [{"kind": "frontier", **p._asdict()} for p in self.frontier]
        found += [{"kind": "keep", "reference": self.reference, **asdict(k)} for k in self.keep]
        if self.advice is not None:
            formats = self.advice.allocation.formats
            found += [{"kind": "allocation", "tensor": name, "spec": spec} for name, spec in formats.items()]
        return found


def inspect(
    path: str | Path,
    formats: Sequence[str | AbstractQuantizer] = FORMATS,
    *,
    budget: float | None = None,
    select: Selection | None = None,
    importance: Importance | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Every tensor of a checkpoint: its outliers, its error in each format, and which format for which tensor.

    Weights are read a part at a time and never held together; what is finished is kept if the call is interrupted.

    Args:
        path: a .safetensors, .gguf or .npy file, or a folder of one model. Quantized tensors come dequantized.
        formats: quantizers or their specs. A GGUF type that does not fit a tensor falls back as in llama.cpp.
        budget: bits per weight over the whole model; of the formats that are tried where none were named only GGUF
            types are then mixed, since no file holds the others beside them.
        select: which tensors; all by default.
        importance: files that say what an error of each weight counts.
        progress: told after each part of a tensor.

    Raises:
        CheckpointError: for a file that cannot be read, or holds no tensor that is wanted.
        ValueError: for an unknown format, or a budget that the smallest formats exceed.

    >>> import numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/w.npy", np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32))
    >>> found = inspect(f"{folder.name}/w.npy", ["q8_0", "q4_0"])
    >>> [(row["used"], round(row["rel_rms"], 3)) for row in found.errors]
    [('q8_0', 0.005), ('q4_0', 0.086)]
    >>> folder.cleanup()
    """
    checkpoint = open_checkpoint(path)
    quantizers = list(dict.fromkeys(parse(f) for f in formats))
    _check(quantizers)
    request = _request(quantizers, importance or Importance())
    select = select or Selection()
    named = _roles(checkpoint)
    chosen = [(entry, named[entry.name]) for entry in checkpoint.entries if select.has(entry.name)]
    if not chosen:
        raise CheckpointError(f"{path}: {_nothing_of(checkpoint)}")
    found = Rows(_each(checkpoint, chosen, request, importance, progress))
    return _advised(checkpoint, found, quantizers, budget, tuple(formats) == FORMATS, request)


def _check(quantizers: Sequence[AbstractQuantizer]) -> None:
    for q in quantizers:
        if isinstance(q, Quantizer) and q.rounding == "stochastic":
            raise ValueError(
                f"{q}: what stochastic rounding loses differs from draw to draw; try it without :stochastic"
            )


def _nothing_of(checkpoint: Checkpoint) -> str:
    if not checkpoint.entries:
        return "holds no tensor"
    held = ", ".join(repr(entry.name) for entry in checkpoint.entries[:4]) + ", …" * (len(checkpoint.entries) > 4)
    return f"no tensor of that name; it holds {held}"


def _roles(checkpoint: Checkpoint) -> dict[str, Role]:
    return roles([e.name for e in checkpoint.entries], {e.name: e.shape for e in checkpoint.entries})


def _request(quantizers: Sequence[AbstractQuantizer], importance: Importance) -> Request:
    columns = {} if importance.imatrix is None else importances.read_imatrix(importance.imatrix)
    gradients = None if importance.gradients is None else open_checkpoint(importance.gradients)
    return Request(quantizers, columns, gradients)


def _each(
    checkpoint: Checkpoint,
    chosen: Sequence[tuple[Entry, Role]],
    request: Request,
    importance: Importance | None,
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """Rows of one tensor after the other; those that an interrupted call has finished are not measured again."""
    work = [entry.size * (1 + len(request.quantizers) * takes_formats(entry, role)) for entry, role in chosen]
    done, total = 0, sum(work)
    with KeptRows.of(checkpoint, request.quantizers, importance) as kept:
        for (entry, role), own in zip(chosen, work, strict=True):
            seen = 0

            def tick(weights: int, before: int = done, name: str = entry.name) -> None:
                nonlocal seen
                seen += weights
                if progress is not None:
                    progress(before + seen, total, name)

            tick(0)
            rows = kept.get(entry.name)
            if rows is None:
                rows = _rows(checkpoint, entry, role, request, tick)
                kept.add(entry.name, rows)
            done += own
            yield from rows
        if progress is not None:
            progress(total, total, "done")
        kept.forget()


def _rows(
    checkpoint: Checkpoint, entry: Entry, role: Role, request: Request, tick: Callable[[int], Any]
) -> list[dict[str, Any]]:
    refused = {"kind": "refused", "tensor": entry.name, "type": entry.type, "shape": list(entry.shape)}
    if entry.unreadable is not None or not entry.size:
        return [refused | {"reason": entry.unreadable or "is empty"}]
    try:
        return rows_of(checkpoint, entry, role, request, tick)
    except TensorError as failure:
        return [refused | {"reason": failure.reason.replace(FOR_READERS, "")}]
    except ValueError as failure:
        return [refused | {"reason": str(failure)}]


def _advised(
    checkpoint: Checkpoint,
    found: Rows,
    quantizers: Sequence[AbstractQuantizer],
    budget: float | None,
    by_default: bool,
    request: Request,
) -> Inspection:
    tensors, errors, refused = (found.where(kind=kind) for kind in ("tensor", "error", "refused"))
    if not tensors:
        reasons = "; ".join(f"{row['tensor']!r} {row['reason']}" for row in refused[:3])
        raise CheckpointError(f"{checkpoint.path}: no tensor can be measured: {reasons}")
    specs = [str(q) for q in quantizers]
    mixed = [str(q) for q in quantizers if not by_default or q in gguf.TYPES.values()]
    model = advice.model_of(tensors, errors, mixed)
    uniform = advice.uniform_choices(tensors, errors, specs)
    advised = None
    if budget is not None:
        advised = advice.under(model, [u for u in uniform if u.spec in mixed], budget)
    reference = _reference(uniform, budget)
    return Inspection(
        Path(checkpoint.path),
        tensors,
        errors,
        refused,
        uniform,
        advice.frontier_of(model),
        advised,
        advice.to_keep(tensors, errors, reference) if reference else [],
        reference,
        _unit(request),
        _roles(checkpoint),
        any(row["type"] in gguf.LAYOUTS for row in tensors),
        mixed,
    )


def _unit(request: Request) -> str:
    if request.gradients is not None:
        return "nats"
    return "by imatrix" if request.columns else "unweighed"


def _reference(uniform: Sequence[Uniform], budget: float | None) -> str | None:
    """The best uniform format within the budget or, without one, the best of fewer than five bits per weight."""
    limit = 5.0 if budget is None else budget
    within = [u for u in uniform if u.bits_per_weight <= limit] or list(uniform[:1])
    return min(within, key=_damage).spec if within else None


def _damage(choice: Uniform) -> float:
    return choice.damage


def counts_of(found: Inspection) -> dict[str, int]:
    """How many tensors get each format of the mixture, of those that were given a choice."""
    assert found.advice is not None
    counts: dict[str, int] = {}
    for spec in found.advice.allocation.formats.values():
        if spec != advice.AS_STORED:
            counts[spec] = counts.get(spec, 0) + 1
    return dict(sorted(counts.items()))


def emitted(found: Inspection, path: Path) -> str:
    """The text of a file that hands the mixture to another program; see ``emitting.text_for``.

    Raises:
        CannotEmitError: if the program cannot use it.
    """
    assert found.advice is not None
    return text_for(path, found.advice.allocation.formats, found.roles)
