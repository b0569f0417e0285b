"""The compiled programs of the second pass: errors of a chunk under a quantizer, whatever tensor it belongs to.

Where scales reach beyond a chunk, those of a row or of the tensor, they follow from extremes that were seen before: the
scale of absmax, of a clip ratio and of minmax from the smallest and the largest weight that share it, NVFP4's tensor
scale from the largest magnitude.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from quantsim._types import Blocks
from quantsim.calibration import Absmax, Clip, FourOverSix, MinMax, Search
from quantsim.granularity import Block, Channel, Tensor
from quantsim.measure import tallies
from quantsim.measure.tallies import Exponents
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.numerics.tiles import TILE, tile_sums
from quantsim.populations.structure import Structure
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.microscaling import Microscaling
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.scaled import Quantizer
from quantsim.quantizer.scaled_blocks import calibrated, nearest, scale_of_tensor, stored_scales
from quantsim.quantizer.structure import parted, rebuild_quantizer


def takes_extremes(q: AbstractQuantizer) -> bool:
    """Whether extremes are all that the scales of ``q`` follow from: one for each row, or for the tensor.

    >>> from quantsim.quantizer import parse
    >>> [takes_extremes(parse(spec)) for spec in ("int8:channel", "int8:tensor:mse", "nvfp4", "q8_0")]
    [True, False, True, False]
    """
    q = q.scaled if isinstance(q, Microscaling) else q
    if not isinstance(q, Quantizer) or q.rounding == "stochastic":
        return False
    if q.two_level:
        return has_blocks_in_rows(q) and isinstance(q.calibration, Absmax | Clip | FourOverSix | Search)
    return q.granularity in (Tensor(), Channel()) and isinstance(q.calibration, Absmax | Clip | MinMax)


def has_blocks_in_rows(q: Quantizer) -> bool:
    """Whether scales are those of blocks along the rows of a matrix."""
    block = q.granularity
    return isinstance(block, Block) and block.axis in (-1, 1) and not block.onward


def searches_by_columns(q: AbstractQuantizer) -> bool:
    """Whether scales are chosen by errors that importances of columns weigh."""
    return isinstance(q, BlockFormat | Quantizer) and q.takes_imatrix


class Given(NamedTuple):
    """What is known of weights beside themselves; each may be None.

    Attributes:
        extremes: (rows, 2), of the weights that share the scale of each row the smallest, at most 0, and the largest.
        importance: what an error of each weight counts, in the shape of the weights.
        columns: importance of each column, for formats that search by an imatrix.
    """

    extremes: Any = None
    importance: Any = None
    columns: Any = None


_NOTHING = Given()


class Found(NamedTuple):
    """What a program says of its weights, on the host.

    Attributes:
        sums: of each tile, in the order of ``tallies.SUMS``, in units of the unit.
        largest: |e| and |w|.
        counts: weights that are not 0, and how many of them became 0.
        weighed: sums of importance e^2 of each tile, None without importances.
    """

    sums: Float[np.ndarray, "tiles 6"]
    largest: Float[np.ndarray, " 2"]
    counts: Int[np.ndarray, " 2"]
    weighed: Float[np.ndarray, " tiles"] | None


def errors(q: AbstractQuantizer, w: Float[np.ndarray, "rows size"], unit: Exponents, given: Given = _NOTHING) -> Found:
    """Sums over tiles of the weights under a quantizer, as ``measure.tally`` has them.

    Args:
        q: sees rows of ``w`` as rows of a matrix or, with extremes, as parts of them.
        w: weights; rows that are zero stand for none.
        unit: of the sums.
        given: extremes and importances.
    """
    if not searches_by_columns(q):
        given = given._replace(columns=None)
    sums, largest, counts, weighed = _errors(*parted(q), w, unit, given)
    on_host = None if weighed is None else np.asarray(weighed)
    return Found(np.asarray(sums), np.asarray(largest), np.asarray(counts), on_host)


@partial(jax.jit, static_argnums=0)
def _errors(
    structure: Structure, numbers: Float[Array, " k"], w: Blocks, unit: Exponents, given: Given
) -> tuple[Any, ...]:
    q = rebuild_quantizer(structure, numbers)
    w_hat = apart(partial(_quantized, q, w, given), w)
    found = tallies.tally(w, w_hat, unit=unit)
    largest, counts = jnp.stack([found.max_abs, found.max_signal]), jnp.stack([found.nonzero, found.zeroed])
    if given.importance is None:
        return found.sums, largest, counts, None
    e = tallies.error(w, w_hat) * ieee.power_of_two(-unit.e)
    weighed = (given.importance * (e * e)).reshape(-1)
    return found.sums, largest, counts, tile_sums(jnp.pad(weighed, (0, -weighed.size % TILE)).reshape(-1, TILE))


def _quantized(q: Any, w: Blocks, given: Given) -> Blocks:
    if given.extremes is not None:
        scaled = q.scaled if isinstance(q, Microscaling) else q
        return (_two_level if scaled.two_level else _one_scale)(scaled, w, given.extremes)
    return q._approximate(w, None) if given.columns is None else q._approximate(w, None, given.columns)


def _one_scale(q: Quantizer, w: Blocks, extremes: Float[Array, "rows 2"]) -> Blocks:
    scale, zero = calibrated(q, extremes, 2)
    return nearest(q, w, scale, zero)


def _two_level(q: Quantizer, w: Blocks, extremes: Float[Array, "rows 2"]) -> Blocks:
    """The scale of the tensor follows from its extremes, as if they were a block."""
    assert isinstance(q.granularity, Block)
    blocks = w.reshape(-1, q.granularity.size)
    scales, _ = stored_scales(q, blocks, q.granularity.size, tensor=scale_of_tensor(q, extremes, 2))
    return nearest(q, blocks, scales.step()).reshape(w.shape)
