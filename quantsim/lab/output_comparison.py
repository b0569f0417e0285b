"""Mitigations crossed with quantizers: the error of the outputs on inputs that no mitigation was calibrated on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from quantsim import checkpoints
from quantsim import populations as pops
from quantsim._types import Activations, Matrix
from quantsim.lab.comparison import Source
from quantsim.measure.ratios import columns, root_ratio
from quantsim.mitigations import Layer, Mitigated, Mitigation
from quantsim.outputs.products import product
from quantsim.populations.activations import ActivationPopulation, parse_activations
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.sweep import array_keys

#: Layers that are drawn from a population.
LAYERS = 4
#: Inputs that a mitigation is calibrated on, for each input channel, and inputs that its outputs are judged on.
CALIBRATION_TOKENS_A_CHANNEL, TEST_TOKENS = 2, 256

#: Called with a mitigation and a quantizer that do not go together, and the reason.
Unfit: TypeAlias = Callable[[str, str], None]


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a layer are compared under.

    Attributes:
        mitigation: remedies, for example gptq smoothquant(alpha=0.5); "none" is always there.
        inputs: population of the activations, such as normal+channels(count=4,magnitude=30); normal by default.
        activations: quantizer of the activations, such as int8:channel with a scale for each token; none by default.
    """

    mitigation: tuple[str, ...] = ()
    inputs: str | None = None
    activations: str | None = None

    @property
    def wanted(self) -> bool:
        """Whether outputs are compared at all."""
        return bool(self.mitigation) or self.inputs is not None or self.activations is not None


class _Problem(NamedTuple):
    """A layer, and the inputs and outputs that it is judged on."""

    name: str
    layer: Layer
    inputs: Activations
    outputs: Matrix


def compare_outputs(
    quantizers: Sequence[AbstractQuantizer],
    mitigations: Sequence[Mitigation],
    source: Source,
    *,
    inputs: str = "normal",
    activations: AbstractQuantizer | None = None,
    unfit: Unfit | None = None,
) -> Iterator[dict[str, Any]]:
    """One row for each mitigation and quantizer: true bits, and ||dy|| / ||y|| of outputs y = x Wᵀ, held out.

    Layers are drawn from a population, or are the matrices of a file. Each is calibrated on twice as many inputs as it
    has channels, and judged on others of the same population; outputs are the units of the standard error.

    Args:
        quantizers: of the weights.
        mitigations: crossed with them; doing nothing, "none", comes first.
        source: of the weights.
        inputs: population of the activations.
        activations: their quantizer, or None.
        unfit: called where a mitigation does not take a quantizer; without it, that raises.

    Raises:
        ValueError: for an unknown population, parts of the source that exclude each other, or what does not fit.

    >>> from quantsim.quantizer import parse
    >>> rows = list(compare_outputs([parse("int4:channel")], [], Source(shape=(8, 64))))
    >>> rows[0]["mitigation"], 0.05 < rows[0]["output_error"] < 0.2
    ('none', True)
    """
    source.check()
    population = parse_activations(inputs)
    problems = list(_problems(source, population))
    for name in dict.fromkeys(problem.name for problem in problems):
        of_name = [problem for problem in problems if problem.name == name]
        for q in quantizers:
            for mitigation in (None, *mitigations):
                try:
                    row = _row(of_name, q, mitigation, activations)
                except ValueError as failure:
                    if unfit is None:
                        raise
                    unfit(f"{mitigation} × {q}", str(failure))
                    continue
                yield ({"tensor": name} if source.weights else {}) | row | {"inputs": str(population)}


def _problems(source: Source, population: ActivationPopulation) -> Iterator[_Problem]:
    for name, weights, key in _layers(source):
        channels = weights.shape[1]
        calibration = population.sample(jax.random.fold_in(key, 1), (CALIBRATION_TOKENS_A_CHANNEL * channels, channels))
        test = population.sample(jax.random.fold_in(key, 2), (TEST_TOKENS, channels))
        yield _Problem(name, Layer(weights, calibration), test, product(test, weights))


def _layers(source: Source) -> Iterator[tuple[str, Matrix, Any]]:
    if source.weights is None:
        pop, shape = pops.parse(source.population or "normal"), source.shape or (256, 1024)
        for key in array_keys(source.seed or 0, str(pop), LAYERS):
            yield str(pop), pop.sample(key, shape), key
        return
    matrices = 0
    for name, w in checkpoints.weights(source.weights, source.tensor):
        if w.ndim == 2:
            yield name, jax.numpy.asarray(w), pops.key(matrices)
            matrices += 1
    if not matrices:
        raise checkpoints.CheckpointError(
            f"{source.weights}: holds no matrix (out, in), whose outputs could be compared"
        )


def _row(
    problems: list[_Problem],
    q: AbstractQuantizer,
    mitigation: Mitigation | None,
    activations: AbstractQuantizer | None,
) -> dict[str, Any]:
    errors, signals, bits = [], [], []
    for problem in problems:
        after = _after(problem.layer, q, mitigation)
        difference = np.asarray(after.outputs(problem.inputs, activations)) - np.asarray(problem.outputs)
        errors.append(np.square(difference, dtype=np.float64).sum(axis=0))
        signals.append(np.square(problem.outputs, dtype=np.float64).sum(axis=0))
        bits.append(after.bits_per_weight(q))
    about = {"mitigation": str(mitigation or "none"), "spec": str(q), "bits_per_weight": float(np.mean(bits))}
    about |= {"activations": None if activations is None else str(activations)}
    return about | columns(output_error=root_ratio(np.concatenate(errors), np.concatenate(signals)))


def _after(layer: Layer, q: AbstractQuantizer, mitigation: Mitigation | None) -> Mitigated:
    if mitigation is None:
        return Mitigated(q.roundtrip(layer.weights), 0.0)
    return mitigation.apply(layer, q, key=pops.key(0))
