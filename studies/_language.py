"""The small language models that studies quantize, and how far their predictions move.

A unit of the standard errors is a sequence of held-out text: what two versions of a model predict of it is compared
token by token, so that what makes a sequence easy or hard cancels.
"""

from collections.abc import Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim import theory, tree
from quantsim._types import PRNGKey
from quantsim.measure.ratios import Estimate, columns, mean
from quantsim.models import likelihood, llama, text, trained
from quantsim.models.layers import linear
from quantsim.models.llama import Config, Params
from quantsim.populations import Normal
from quantsim.quantizer import parse as quantizer
from quantsim.tree import Policy, QuantizedTree, Treatment, policy

#: The models of the width that all questions but that of the width are put to: one for each seed of training.
MODELS = ("lm-w128-s0", "lm-w128-s1", "lm-w128-s2")
CALIBRATION_SEQUENCES = 8

PerSequence = NDArray[np.float64]


class Subject(NamedTuple):
    """A trained model, the held-out text it is judged on, and its own predictions there."""

    name: str
    params: Params
    config: Config
    tokens: Int[Array, "sequences time"]
    targets: Int[Array, "sequences time"]
    logits: Float[Array, "sequences time vocabulary"]


class Damage(NamedTuple):
    """How predictions move, mean over the tokens of each sequence.

    Attributes:
        kl: Kullback-Leibler divergence from the unquantized model's predictions, in nats.
        nll: increase of the negative log-likelihood of the text, in nats.
        flips: share of tokens whose most likely successor is another.
    """

    kl: PerSequence
    nll: PerSequence
    flips: PerSequence

    def columns(self) -> dict[str, float]:
        """Means with their standard errors over the sequences."""
        return columns(kl=mean(self.kl), nll=mean(self.nll), flips=mean(self.flips))


@partial(jax.jit, static_argnames="config")
def predictions(params: Any, tokens: Int[Array, "batch time"], config: Config) -> Array:
    """Logits of a model, quantized or not."""
    return llama.forward(params, tokens, config, product=tree.product)


@cache
def subject(name: str, sequences: int) -> Subject:
    """The model of this name, judged on so many held-out sequences, evenly spread over all of them."""
    params, config, _ = trained.load(name)
    held_out = text.held_out(config.context)
    chosen = jnp.asarray(held_out[np.linspace(0, len(held_out) - 1, sequences).round().astype(int)])
    tokens, targets = chosen[:, :-1], chosen[:, 1:]
    return Subject(name, params, config, tokens, targets, predictions(params, tokens, config))


def loss(of: Subject) -> Estimate:
    """Negative log-likelihood of the unquantized model, in nats per byte."""
    return mean(np.asarray(likelihood.nll(of.logits, of.targets), np.float64).mean(axis=1))


def damage(of: Subject, params: Any) -> Damage:
    """What other parameters, quantized or not, do to the predictions of a model."""
    return moved(of, predictions(params, of.tokens, of.config))


def moved(of: Subject, logits: Float[Array, "sequences time vocabulary"]) -> Damage:
    """What other predictions than the model's own are worth."""
    found = likelihood.compared(of.logits, logits, of.targets)
    by_token = (found.kl, found.increase, found.flips)
    return Damage(*(np.asarray(a, np.float64).mean(axis=1) for a in by_token))


@cache
def calibration_inputs(name: str) -> dict[str, Array]:
    """Inputs of every linear layer on training text, for calibration: 8 sequences of the context."""
    params, config, _ = trained.load(name)
    return sites_of(params, config)


def inputs_of(of: Subject) -> dict[str, Array]:
    """The same of other parameters than the trained ones."""
    return sites_of(of.params, of.config)


def sites_of(params: Params, config: Config) -> dict[str, Array]:
    """Inputs of every linear layer of a model on training text."""
    data = text.training_bytes()
    starts = np.linspace(0, len(data) - config.context, CALIBRATION_SEQUENCES).astype(int)
    tokens = jnp.asarray(data[starts[:, None] + np.arange(config.context)].astype(np.int32))
    return _sites(params, tokens, config)


@partial(jax.jit, static_argnames="config")
def _sites(params: Params, tokens: Int[Array, "batch time"], config: Config) -> dict[str, Array]:
    return tree.site_inputs(lambda p, product: llama.forward(p, tokens, config, product=product), params)


def quantized(
    of: Subject, rules: Policy | dict[str, Any] | Treatment | str, *, inputs: dict[str, Array] | None = None
) -> QuantizedTree:
    """A model under a policy, calibrated on training text where that is needed; the trained model's own by default."""
    known = policy(rules)
    if inputs is None and any(treatment.needs_inputs for _, treatment in known.rules):
        inputs = calibration_inputs(of.name)
    return tree.quantize(of.params, known, inputs=inputs)


def matrices(params: Params) -> dict[str, Array]:
    """The weights that policies quantize, by name."""
    return {name: w for name, w in params.items() if w.ndim == 2}


def layers(params: Params) -> dict[str, Array]:
    """The matrices of layers, by name: neither the embeddings nor the output."""
    return {name: w for name, w in matrices(params).items() if name.startswith("blk.")}


def relative_errors(params: Params, changed: Params) -> dict[str, float]:
    """||e|| / ||w|| of each matrix."""
    return {name: relative_error(w, changed[name]) for name, w in matrices(params).items()}


def relative_error(w: Any, w_hat: Any) -> float:
    """||ŵ - w|| / ||w|| in float64."""
    exact, found = np.asarray(w, np.float64), np.asarray(w_hat, np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def noisy(params: Params, relative: dict[str, float], seed: int) -> Params:
    """Normal noise added to each matrix, of so large a part of its rms."""
    changed = dict(params)
    for number, (name, size) in enumerate(relative.items()):
        w, key = params[name], jax.random.fold_in(jax.random.key(seed), number)
        changed[name] = w + size * jnp.sqrt(jnp.mean(w * w)) * jax.random.normal(key, w.shape)
    return changed


def noise_like(params: Params, changed: Params, seed: int) -> Params:
    """Normal noise in the place of each error, of its rms in each row of a matrix."""
    noisy = dict(params)
    for number, (name, w) in enumerate(matrices(params).items()):
        rms = jnp.sqrt(jnp.mean((changed[name] - w) ** 2, axis=1, keepdims=True))
        noisy[name] = w + rms * jax.random.normal(jax.random.fold_in(jax.random.key(seed), number), w.shape)
    return noisy


@partial(jax.jit, static_argnames="config")
def _with_noisy_inputs(
    params: Params, tokens: Int[Array, "batch time"], config: Config, sizes: dict[str, Array], key: PRNGKey
) -> Array:
    numbers = {name: number for number, name in enumerate(sizes)}

    def product(name: str, x: Array, w: Array) -> Array:
        if name in sizes:
            noise = jax.random.normal(jax.random.fold_in(key, numbers[name]), x.shape)
            x = x + sizes[name] * jnp.sqrt(jnp.mean(x * x)) * noise
        return linear(name, x, w)

    return llama.forward(params, tokens, config, product=product)


def noisy_inputs(of: Subject, relative: dict[str, float], seed: int) -> Damage:
    """What normal noise in the inputs of layers does, of so large a part of their rms, other noise at each token."""
    sizes = {name: jnp.float32(relative.get(name, 0.0)) for name in layers(of.params)}
    logits = _with_noisy_inputs(of.params, of.tokens, of.config, sizes, jax.random.key(seed))
    return moved(of, logits)


def mean_of(found: Iterable[Damage]) -> Damage:
    """Mean of several, sequence by sequence."""
    return Damage(*np.mean([list(one) for one in found], axis=0))


def rms(values: Iterable[float]) -> float:
    """Root of the mean square.

    >>> rms([3.0, 4.0, 5.0, 0.0])
    3.5355339059327378
    """
    return float(np.sqrt(np.mean(np.square(list(values)))))


def layers_noise(of: Subject, size: float, seeds: Iterable[int]) -> Estimate:
    """KL under normal noise of one relative size in every matrix of the layers, mean over seeds."""
    sizes = dict.fromkeys(layers(of.params), size)
    return mean(mean_of(damage(of, noisy(of.params, sizes, seed)) for seed in seeds).kl)


def normal_error(spec: str, w: Array) -> float:
    """||ŵ - w|| / ||w|| of a matrix of this shape if its weights were normal.

    >>> round(normal_error("int4:block32", jnp.zeros((8, 64))), 4)
    0.097
    """
    return float(np.sqrt(theory.weight_rel_mse(Normal(), quantizer(spec), w.shape)))


def over_trainings(values: list[float]) -> Estimate:
    """Mean over trainings and its standard error; of one training the error is not known, and 0."""
    return mean(values) if len(values) > 1 else Estimate(values[0], 0.0)
