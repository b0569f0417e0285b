"""Matrices of weights that a person gives to a study: which there are, as many of their numbers as are asked for.

A tensor is seen as its products see it, outputs by inputs: kernels of convolutions are flattened, experts that lie in
one tensor are one below the other, and what GPT-2 stores (in, out) is turned. What cannot be read, or holds nothing but
zeros, gives a row that says why.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float

from quantsim._types import ArrayLike, NDArray, Shape
from quantsim.checkpoints import Checkpoint, CheckpointError, Entry, TensorError, open_checkpoint
from quantsim.inspection.role_names import IN_BLOCKS
from quantsim.inspection.roles import Role, roles
from quantsim.lab.given import Given
from quantsim.measure.squares import Squares

LEFT_OUT = "left out"
#: Of these no product is formed, or none with weights that are quantized.
_NO_MATRICES = frozenset({"norm", "bias", "scale", "mask", "rope", "lora", "token_types", "position_embd", "ssm_a"})
_ALONG = {kind: place for place, kind in enumerate(IN_BLOCKS)}
_LONGEST_KERNEL = 31
_AT_ONCE = 2**22  # weights

Weights = Float[NDArray[np.float32], "rows columns"]


@dataclass(frozen=True)
class Tensor:
    """A matrix of a checkpoint."""

    entry: Entry
    role: Role

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs.

        A kernel is (out, in, …) with short last axes.
        """
        shape: Shape = self.entry.shape
        if 3 <= len(shape) <= 5 and max(shape[2:]) <= _LONGEST_KERNEL:
            return shape[0], prod(shape[1:])
        rows, columns = prod(shape[:-1]), shape[-1]
        return (rows // shape[-2] * columns, shape[-2]) if self.role.transposed else (rows, columns)

    @property
    def unit(self) -> int:
        """Weights that are read together: a row or, of what is stored turned, a matrix."""
        return prod(self.entry.shape[-2:]) if self.role.transposed else self.shape[1]

    def about(self) -> dict[str, Any]:
        """What rows say of it."""
        found = {"tensor": self.entry.name, "type": self.role.kind, "layer": self.role.layer}
        return found | ({} if self.role.expert is None else {"expert": self.role.expert})


@lru_cache(1)
def checkpoint(given: Given) -> Checkpoint:
    """The files, opened."""
    return open_checkpoint(given.path)


@cache
def tensors(given: Given) -> tuple[Tensor, ...]:
    """Every matrix, layer by layer, those outside layers last.

    Raises:
        CheckpointError: if there is none.
    """
    entries = {entry.name: entry for entry in checkpoint(given).entries}
    found = roles([*entries], {name: entry.shape for name, entry in entries.items()})
    matrices = [Tensor(entries[name], role) for name, role in found.items() if _is_matrix(entries[name], role)]
    if not matrices:
        raise CheckpointError(f"{given.path}: no tensor is a matrix of weights; name a file that holds a model's")
    if all(tensor.entry.unreadable for tensor in matrices):
        first = matrices[0].entry
        raise TensorError(first.path, first.name, f"{first.unreadable}; so do all other matrices")
    return tuple(sorted(matrices, key=_place))


def _is_matrix(entry: Entry, role: Role) -> bool:
    return len(entry.shape) > 1 and min(entry.shape[:2]) > 1 and role.kind not in _NO_MATRICES


def _place(tensor: Tensor) -> tuple[bool, int, int, str, int, str]:
    """Layers in their order, and in them q, k, v, … down, as data flow."""
    role = tensor.role
    kind = role.kind.removeprefix("cross_").removeprefix("context_").removesuffix("_shexp")
    along = _ALONG.get(kind, len(_ALONG))
    return role.layer is None, role.layer or 0, along, role.kind, role.expert or 0, tensor.entry.name


def sample(given: Given) -> list[Tensor]:
    """As many matrices as are asked for, in their order; of more of them, those that chance picks by their names."""
    found = tensors(given)
    chosen = {tensor.entry.name for tensor in sorted(found, key=_by_chance)[: given.tensors]}
    return [tensor for tensor in found if tensor.entry.name in chosen]


def _by_chance(tensor: Tensor) -> int:
    return zlib.crc32(tensor.entry.name.encode())


# --- numbers ----------------------------------------------------------------------------------------------------------


def matrix(given: Given, tensor: Tensor) -> Weights:
    """Rows of a matrix, all of them or, of a larger one, as many as are asked for, at equal distances."""
    units = tensor.entry.size // tensor.unit
    wanted = min(units, max(1, given.weights // tensor.unit))
    if wanted == units:
        return _rows(given, tensor, 0, units)
    places = np.linspace(0, units - 1, wanted).round().astype(int) if wanted > 1 else [0]
    return np.concatenate([_rows(given, tensor, int(at), 1) for at in places])


def parts(given: Given, tensor: Tensor) -> Iterator[Weights]:
    """All of a matrix, a part at a time."""
    units, step = tensor.entry.size // tensor.unit, max(1, _AT_ONCE // tensor.unit)
    for first in range(0, units, step):
        yield _rows(given, tensor, first, min(step, units - first))


def _rows(given: Given, tensor: Tensor, first: int, count: int) -> Weights:
    block, start, stop = tensor.entry.block, first * tensor.unit, (first + count) * tensor.unit
    before, behind = start % block, -stop % block
    found = checkpoint(given).weights(tensor.entry, start - before, stop - start + before + behind)
    found = found[before : len(found) - behind]
    if tensor.role.transposed:
        found = found.reshape(count, *tensor.entry.shape[-2:]).swapaxes(-1, -2)
    return np.ascontiguousarray(found).reshape(-1, tensor.shape[1])


def spread(given: Given, tensor: Tensor) -> dict[str, float]:
    """``_matrices.spread("w", …)`` of all of a matrix, part by part: its weights are read twice."""
    top, second, fourth = 0.0, 0.0, 0.0
    for part in parts(given, tensor):
        squared = np.square(part.astype(np.float64))
        top, second, fourth = max(top, float(squared.max())), second + squared.sum(), fourth + (squared**2).sum()
    mean = second / tensor.entry.size
    if not mean:
        raise TensorError(tensor.entry.path, tensor.entry.name, "holds nothing but zeros")
    beyond = np.zeros(2)
    for part in parts(given, tensor):
        squared = np.square(part.astype(np.float64))
        beyond += [np.count_nonzero(squared > limit**2 * mean) for limit in (3, 10)]
    return {
        "w_max": float(np.sqrt(top / mean)),
        "w_kurtosis": float(fourth / tensor.entry.size / mean**2),
        "w_beyond_3": float(beyond[0] / tensor.entry.size),
        "w_beyond_10": float(beyond[1] / tensor.entry.size),
    }


def squares_of_rows(w: Weights, w_hat: ArrayLike) -> Squares:
    """Sums of squares of each row and of its error: rows of a matrix are the units of its standard errors."""
    exact, found = w.astype(np.float64), np.asarray(w_hat, np.float64).reshape(w.shape)
    return Squares(np.square(exact).sum(axis=1), np.square(found - exact).sum(axis=1))


def rows_of(chosen: Sequence[Tensor], measured: Callable[[Tensor], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of each tensor or, of one that cannot be measured, why."""
    rows: list[dict[str, Any]] = []
    for tensor in chosen:
        try:
            rows += [tensor.about() | row for row in measured(tensor)]
        except TensorError as failure:
            rows.append({"kind": LEFT_OUT} | tensor.about() | {"why": failure.reason})
    return rows


def measurable(given: Given, tensor: Tensor) -> Weights:
    """``matrix``, if it holds more than zeros.

    Raises:
        TensorError: if it does not, or cannot be read.
    """
    w = matrix(given, tensor)
    if not w.any():
        raise TensorError(tensor.entry.path, tensor.entry.name, "holds nothing but zeros")
    return w
