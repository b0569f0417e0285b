"""The error that a fitted population predicts.

By theory for plain casts and where a row or the tensor shares a scale; by draws for blocks, whose error does not depend
on the shape of the tensor, so that one sample of a population serves every tensor that looks like it.
"""

from functools import lru_cache
from math import frexp, gamma
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantsim.formats import PowerOfTwo
from quantsim.inspection.errors import Damage, Subject, damages
from quantsim.inspection.fitting import with_std
from quantsim.inspection.pieces import Matrix
from quantsim.inspection.signal import signal_of
from quantsim.populations import GeneralizedNormal, Laplace, Normal, Population, StudentT, Uniform
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.microscaling import Microscaling
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.rotated import Rotated
from quantsim.quantizer.scaled import Quantizer
from quantsim.theory import has_weight_theory, weight_rel_mse
from quantsim.theory.scheme import PowerOfTwoScale

#: Shape of a sample: 2^19 weights, a relative standard error of about 0.15 %.
DRAWN = Matrix(512, 1024)
_HELD = 24  # samples, of 2 MiB each
#: Standard deviations at which scales of 16 bits round as they do at 1.
_MODERATE = (2.0**-10, 2.0**10)
_WIDE = 16  # bits of a scale whose steps are so small that it does not matter where they are


class Prediction(NamedTuple):
    """Relative error ||e|| / ||w|| of a population, its standard error, 0 by theory, and how it is known."""

    rel_rms: float
    se: float
    by: Literal["theory", "draws"]


def predict(pop: Population, q: AbstractQuantizer, matrix: Matrix) -> Prediction:
    """Relative error of a population in a matrix of this shape.

    >>> from quantsim.populations import Normal
    >>> from quantsim.quantizer import parse
    >>> predict(Normal(0.02), parse("int8:tensor"), Matrix(1024, 1024)).by
    'theory'
    >>> drawn = predict(Normal(0.02), parse("q4_0"), Matrix(1024, 1024))
    >>> abs(drawn.rel_rms - weight_rel_mse(Normal(0.02), parse("q4_0")) ** 0.5) < 4 * drawn.se
    True
    """
    like = with_std(pop, _equivalent(q, float(getattr(pop, "std", 1.0))))
    if _is_local(q):
        return _drawn(like, q, DRAWN)
    return _known(like, q, matrix)


def _equivalent(q: AbstractQuantizer, std: float) -> float:
    """A standard deviation at which the relative error is the same, shared by as many tensors as can be."""
    if not _MODERATE[0] < std < _MODERATE[1]:
        return std
    if isinstance(q, Rotated):
        return _equivalent(q.inner, std)
    if isinstance(q, Microscaling):
        return _equivalent(q.scaled, std)
    if isinstance(q, BlockFormat):
        law = None if q.facts is None else q.facts.scale
        powers, stored = isinstance(law, PowerOfTwoScale), getattr(law, "stored", None)
    elif isinstance(q, Quantizer) and q.granularity is not None:
        powers, stored = q.two_level or isinstance(q.scale_format, PowerOfTwo), q.scale_format
    else:
        return std  # steps of a cast follow each weight
    if powers:
        return 2 * frexp(std)[0]
    return std if stored is not None and stored.bits < _WIDE else 1.0  # small weights may have no scale that is stored


def _is_local(q: AbstractQuantizer) -> bool:
    """Whether scales are those of blocks; NVFP4's scale of the tensor moves those of blocks by roundings only."""
    if isinstance(q, BlockFormat | Microscaling):
        return True
    return q._span((1024, 1024)) not in (None, 1, 1024)


@lru_cache(2**14)
def _known(pop: Population, q: AbstractQuantizer, matrix: Matrix) -> Prediction:
    shape = (matrix.rows, matrix.columns)
    if has_weight_theory(pop, q, shape):
        return Prediction(float(np.sqrt(weight_rel_mse(pop, q, shape))), 0.0, "theory")
    return _drawn(pop, q, Matrix(max(1, DRAWN.size // matrix.columns), matrix.columns))


@lru_cache(2**14)
def _drawn(pop: Population, q: AbstractQuantizer, matrix: Matrix) -> Prediction:
    found = damages(_subject(pop, matrix), [q])[q]
    if not isinstance(found, Damage):
        raise found
    return Prediction(found.stats.rel_rms, found.stats.rel_rms_se, "draws")


@lru_cache(_HELD)
def _subject(pop: Population, matrix: Matrix) -> Subject:
    w = _sample(with_std(pop, 1.0), matrix.size)
    if (std := float(getattr(pop, "std", 1.0))) != 1.0:
        most = float(np.finfo(np.float32).max)  # where weights are huge, draws beyond it would be infinite
        w = np.clip(w.astype(np.float64) * std, -most, most).astype(np.float32)

    def take(first: int, count: int) -> NDArray[np.float32]:
        return w[first : first + count]

    return Subject(take, matrix, signal_of(take, matrix))


@lru_cache(_HELD)
def _sample(pop: Population, size: int) -> NDArray[np.float32]:
    """NumPy's draws with unit standard deviation: of these families ten times as fast as quantiles at uniform draws."""
    rng = np.random.Generator(np.random.Philox(0))
    match pop:
        case Normal():
            drawn = rng.standard_normal(size)
        case Laplace():
            drawn = rng.laplace(scale=0.5**0.5, size=size)
        case Uniform():
            drawn = rng.uniform(-(3**0.5), 3**0.5, size)
        case StudentT(df=df):
            drawn = rng.standard_t(df, size) * ((df - 2) / df) ** 0.5
        case GeneralizedNormal(beta=beta):
            magnitude = rng.standard_gamma(1 / beta, size) ** (1 / beta) * (gamma(1 / beta) / gamma(3 / beta)) ** 0.5
            drawn = np.where(rng.random(size) < 0.5, -magnitude, magnitude)
        case _:
            drawn = pop.quantile(rng.random(size))
    return np.asarray(drawn, np.float32)
