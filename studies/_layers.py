"""Layers with one difficulty each, what a mitigation makes of them on fresh tokens, and its gain at equal bits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim._types import Activations, Matrix, PRNGKey
from quantsim.measure.ratios import columns, decibels, root_ratio
from quantsim.mitigations import Layer, Mitigated, parse
from quantsim.outputs.products import product
from quantsim.populations import parse as weights_of
from quantsim.populations import parse_activations
from quantsim.quantizer import parse as quantizer
from quantsim.sweep import population_key

NOTHING = "rounding alone"
CONSTANT, EVERY = 8.0, 8  # std of the rest that is added to every 8th row, of weights and of inputs


@dataclass(frozen=True)
class Size:
    """How much is drawn.

    Attributes:
        side: inputs and outputs of a layer.
        fresh_tokens: to judge by.
        repeats: layers of each kind, the units of the standard errors.
        seed: of everything that is drawn.
    """

    side: int
    fresh_tokens: int
    repeats: int
    seed: int


class Setting(NamedTuple):
    """A quantizer of weights, one of activations or None, and the same with other numbers of bits for the weights."""

    weights: str
    activations: str | None
    other_bits: tuple[str, ...]


class Problem(NamedTuple):
    """Specs of the weights and of the inputs, and whether a constant is added to some rows of both."""

    weights: str = "normal"
    inputs: str = "normal"
    constant: bool = False


# --- layers ---------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A layer with its calibration inputs, fresh inputs, and a key for what is random."""

    layer: Layer
    fresh: Activations
    key: PRNGKey


def drawn(size: Size, name: str, problem: Problem, tokens: int) -> list[Drawn]:
    """The repeats of a problem: weights, ``tokens`` to calibrate on, and tokens to judge by, functions of the name."""
    found = []
    for repeat in range(size.repeats):
        key = population_key(size.seed, f"{name} {repeat}")
        w = weights_of(problem.weights).sample(key, (size.side, size.side))
        inputs = parse_activations(problem.inputs)
        of_x = jax.random.fold_in(key, 1)
        x = inputs.sample(of_x, (tokens, size.side))
        fresh = inputs.sample(of_x, (size.fresh_tokens, size.side), start=tokens)
        if problem.constant:
            w, x, fresh = (a.at[::EVERY].add(CONSTANT) for a in (w, x, fresh))
        found.append(Drawn(Layer(w, x), fresh, jax.random.fold_in(key, 2)))
    return found


# --- what becomes of them ---------------------------------------------------------------------------------------------


class Outcomes(NamedTuple):
    """Of each repeat: stored bits a weight, and sums of squares of the errors of outputs and of outputs."""

    bits: NDArray[np.float64]
    errors: NDArray[np.float64]
    outputs: NDArray[np.float64]

    def charged(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared errors as they were if each bit above so many were spent on a finer step: e² · 4^(bits more)."""
        return self.errors * 4.0 ** (self.bits - bits)


def outcomes(spec: str, setting: Setting, layers: list[Drawn]) -> Outcomes:
    """What a remedy, or rounding alone, makes of layers, judged by fresh tokens."""
    return judged_by(setting, layers, [applied(spec, one.layer, setting.weights, one.key) for one in layers])


def judged_by(setting: Setting, layers: list[Drawn], mitigated: list[Mitigated], *, shown: bool = False) -> Outcomes:
    """Outcomes of layers after a remedy on fresh tokens, or on those that it was ``shown``."""
    found = []
    for (layer, fresh, _), after in zip(layers, mitigated, strict=True):
        x = layer.inputs if shown else fresh
        squares = squared_errors(layer.weights, x, after.outputs(x, setting.activations))
        found.append((after.bits_per_weight(setting.weights), *(float(v) for v in squares)))
    return Outcomes(*np.array(found, np.float64).T)


def applied(spec: str, layer: Layer, q: str, key: PRNGKey) -> Mitigated:
    """The layer after a mitigation, or after rounding alone."""
    if spec == NOTHING:
        return Mitigated(quantizer(q).roundtrip(layer.weights), jnp.float32(0))
    return parse(spec).apply(layer, q, key=key)


@jax.jit
def squared_errors(w: Matrix, x: Activations, y_hat: Float[Array, "batch out"]) -> tuple[Array, Array]:
    """Sums of (ŷ - y)² and of y², y = x wᵀ."""
    y = product(x, w)
    return jnp.sum((y_hat - y) ** 2), jnp.sum(y * y)


def judged(plain: Outcomes, one: Outcomes) -> dict[str, float]:
    """Error relative to the outputs, and gains over rounding alone: as they are, and at equal bits."""
    return {"bits_per_weight": one.bits.mean(), "extra_bits": (one.bits - plain.bits).mean()} | columns(
        error=root_ratio(one.errors, one.outputs),
        gain_db=decibels(plain.errors, one.errors),
        equal_bits_gain_db=decibels(plain.errors, one.charged(plain.bits)),
    )


def best(plain: Outcomes, found: dict[str, Outcomes]) -> dict[str, Any]:
    """The remedy with the least error at equal bits, and its margin over the best of another name, paired by layer."""
    charged = {spec: one.charged(plain.bits) for spec, one in found.items()}
    first, *others = sorted(charged, key=lambda spec: charged[spec].sum())
    second = next(spec for spec in others if kind_of(spec) != kind_of(first))
    margin = decibels(charged[second], charged[first])
    return {"remedy": first, "second": second} | columns(margin_db=margin)


def kind_of(spec: str) -> str:
    """The name of a mitigation without its options."""
    return spec.partition("(")[0]
