"""What an error of each weight counts: importances of columns as llama.cpp's imatrix has them, or squared gradients.

An imatrix holds of each column the mean square of the input that it multiplies, so that ``sum_j d_j e_j^2`` is the
squared error of an output if inputs are uncorrelated. Squared gradients F of the log-likelihood, by labels drawn from
the model itself, are Fisher's information: ``sum F e^2 / 2`` is the Kullback-Leibler divergence in nats to second order
where errors are uncorrelated. Source: Martens, JMLR 21 (2020).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from quantsim.checkpoints import CheckpointError, open_checkpoint
from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.inspection.pieces import Matrix, Take

_SUMS, _COUNTS = ".in_sum2", ".counts"
_WEIGHT = ".weight"

Columns = Mapping[str, NDArray[np.float32]]


def read_imatrix(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Importance of each column, by the name of a tensor without ``.weight``.

    Args:
        path: llama.cpp's imatrix as ``.gguf``, or a ``.safetensors`` file of a vector (in,) for each name.

    Raises:
        CheckpointError: for a file that is damaged, or holds no vector of importances.
    """
    checkpoint = open_checkpoint(path)
    named = {entry.name: entry for entry in checkpoint.entries if entry.unreadable is None}
    found = {}
    for name, entry in named.items():
        if checkpoint.kind == "gguf":
            if not name.endswith(_SUMS) or name.removesuffix(_SUMS) + _COUNTS not in named:
                continue
            counts = checkpoint.weights(named[name.removesuffix(_SUMS) + _COUNTS])
            values = checkpoint.weights(entry).reshape(len(counts), -1) / np.maximum(counts, 1)[:, None]
            values = values.mean(axis=0)
        else:
            values = checkpoint.weights(entry)
        if (values < 0).any():
            raise CheckpointError(f"{path}: {name!r} holds an importance below 0; importances are mean squares")
        found[base(name.removesuffix(_SUMS))] = values.astype(np.float32)
    if not found:
        raise CheckpointError(
            f"{path}: holds no importances; name an imatrix of llama.cpp as .gguf, or a .safetensors file of a vector "
            "for each tensor"
        )
    return found


def base(name: str) -> str:
    """The name of a tensor without the ending that some files have.

    >>> base("blk.0.attn_q.weight"), base("blk.0.attn_q")
    ('blk.0.attn_q', 'blk.0.attn_q')
    """
    return name.removesuffix(_WEIGHT)


def of_columns(columns: Float[np.ndarray, " columns"], matrix: Matrix) -> Take:
    """Reads the importance of each weight of a flattened matrix, that of its column."""

    def take(first: int, count: int) -> NDArray[np.float32]:
        shift = first % matrix.columns
        repeats = -(-(shift + count) // matrix.columns)
        return np.tile(columns, repeats)[shift : shift + count]

    return take


def of_gradients(gradients: Checkpoint, name: str, matrix: Matrix) -> Take | None:
    """Reads the squared gradient of each weight, None for a tensor that the file has none of.

    Raises:
        CheckpointError: for a tensor of another shape.
    """
    entry = next((e for e in gradients.entries if base(e.name) == base(name)), None)
    if entry is None:
        return None
    if Matrix.of(entry.shape) != matrix:
        raise CheckpointError(f"{gradients.path}: {entry.name!r} has shape {entry.shape}, the weights have {matrix}")

    def take(first: int, count: int) -> NDArray[np.float32]:
        return gradients.weights(entry, first, count)

    return take
