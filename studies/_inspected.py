"""The part of the study ``throughput`` that inspects a checkpoint, beside NumPy with the ``gguf`` package."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from quantsim import inspection

from . import _rivals
from ._timing import Contender, by_numpy, by_quantsim

#: GGUF types that the package can quantize, too, by quantsim's names.
FORMATS = {"q8_0": "Q8_0", "q5_1": "Q5_1", "q5_0": "Q5_0", "q4_1": "Q4_1", "q4_0": "Q4_0", "mxfp4:gguf": "MXFP4"}
INSPECT = f"inspect, {len(FORMATS)} formats"
_COLUMNS = 4096


def inspecting(folder: Path, weights: int, seed: int) -> Iterator[Contender]:
    """One matrix in a file of a folder: its moments, and its errors in each format; a rate counts weights × formats."""
    w = np.random.default_rng(seed).standard_normal((weights // _COLUMNS, _COLUMNS), dtype=np.float32)
    path = folder / "w.npy"
    np.save(path, w)
    yield by_quantsim(INSPECT, w.size * len(FORMATS), partial(_ours, path))
    if _rivals.optional("gguf"):
        yield by_numpy(INSPECT, w.size * len(FORMATS), partial(_by_numpy, path), _rivals.NUMPY_GGUF)


def _ours(path: Path) -> list[float]:
    return inspection.inspect(path, tuple(FORMATS)).errors.column("rel_rms").tolist()


def _by_numpy(path: Path) -> list[float]:
    """The same numbers, but for the fitted population and what it predicts."""
    w = np.load(path)
    power = np.mean(np.square(w, dtype=np.float64))
    units = np.abs(w) / np.sqrt(power)
    found = [float(units.max()), float(np.mean(units**4)), float(np.mean(units > 3)), float(np.mean(units > 10))]
    return [*found, *(_error(w, kind) / power for kind in FORMATS.values())]


def _error(w: Float[np.ndarray, "rows columns"], kind: str) -> float:
    e = _rivals.unpacked(kind.lower(), _rivals.packed(kind.lower(), w)) - w
    assert np.abs(e).max() < np.abs(w).max()
    return float(np.mean(np.square(e, dtype=np.float64)))
