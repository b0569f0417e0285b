"""What a sweep has seen of a cell: sums in float64, folded one array at a time in the order of the arrays."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim.measure.statistics import ErrorStats
from quantsim.measure.tallies import Noise, Signal

F64 = NDArray[np.float64]


@dataclass
class Totals:
    """Sums over arrays for each quantizer, as ``ErrorStats`` has them.

    They are always folded in the order of the arrays, so they do not depend on how arrays came in chunks.

    Attributes:
        sums: of (1, e, |e|, e^2, w^2, e w), as ``tallies.SUMS`` names them, (quantizers, 6).
        cross: sums over arrays of products of two such sums, (quantizers, 6, 6): what standard errors are made of.
        max_abs: largest |e| of each quantizer.
        max_signal: largest |w|.
        arrays: how many arrays were folded.
        nonzero: how many weights are not 0.
        zeroed: how many of them each quantizer sets to 0.
    """

    sums: F64
    cross: F64
    max_abs: F64
    max_signal: float = 0.0
    arrays: int = 0
    nonzero: int = 0
    zeroed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(cls, quantizers: int) -> "Totals":
        """Totals of nothing."""
        sums, cross = np.zeros((quantizers, 6)), np.zeros((quantizers, 6, 6))
        return cls(sums, cross, np.zeros(quantizers), zeroed=np.zeros(quantizers, np.int64))

    def add(self, signal: Signal, noise: Noise) -> None:
        """Fold one array, on the host: its signal, and the noise of each quantizer along the leading axis."""
        sums = _sums(signal, noise)
        self.sums += sums
        self.cross += sums[:, :, None] * sums[:, None, :]
        self.max_abs = np.maximum(self.max_abs, np.asarray(noise.max_abs, np.float64))
        self.max_signal = float(np.maximum(self.max_signal, signal.max_signal))
        self.arrays += 1
        self.nonzero += int(signal.nonzero)
        self.zeroed += np.asarray(noise.zeroed, np.int64)

    def stats(self) -> list[ErrorStats]:
        """Error statistics of each quantizer, arrays being the units of the standard errors."""
        each = zip(self.sums, self.cross, self.max_abs, self.zeroed, strict=True)
        return [
            ErrorStats(sums, cross, self.arrays, float(largest), self.max_signal, self.nonzero, int(zeroed), 0)
            for sums, cross, largest, zeroed in each
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON has it; floats are written with all digits, so ``Totals.load`` gives the same bits."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @classmethod
    def load(cls, stored: dict[str, Any]) -> "Totals":
        """Totals that ``plain`` gave."""
        found: dict[str, Any] = {k: np.array(v, np.float64) if isinstance(v, list) else v for k, v in stored.items()}
        found["zeroed"] = np.array(stored["zeroed"], np.int64)
        return cls(**found)


def _sums(signal: Signal, noise: Noise) -> F64:
    """Sums over one array for each quantizer, in the order of ``tallies.SUMS``."""
    e, abs_e, squares_of_e, products = _over_tiles(noise.sums).T
    count, squares_of_w = (np.broadcast_to(of_w, e.shape) for of_w in _over_tiles(signal.sums))
    return np.stack([count, e, abs_e, squares_of_e, squares_of_w, products], axis=1)


def _over_tiles(sums: Any) -> F64:
    """Sum over the tiles, first to last: so NumPy adds with tiles outermost and several sums side by side."""
    return np.add.reduce(np.ascontiguousarray(np.moveaxis(sums, -2, 0)), axis=0)
