"""The small diffusion UNets that studies quantize, and how far their images and their predicted noise move.

A unit of the standard errors is a sample: all versions of a network begin with the same noise, so that what makes a
sample easy or hard cancels. Medians and shares tell of samples, the Fréchet distance of their distribution.
"""

from collections.abc import Iterable
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import tree
from quantsim.measure.frechet import Frechet, Increase, frechet_distance, frechet_increase
from quantsim.measure.ratios import Estimate, columns, mean, root_ratio
from quantsim.models import digit_classifier, digits, trained_digits, unet, unet_sampling
from quantsim.models.sampling_plans import Plan, Solver, cosine_schedule, plan, share_of
from quantsim.models.unet import Config, Hooks, Params
from quantsim.models.unet_sampling import Other
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.tree import Policy, QuantizedTree, Treatment, policy
from quantsim.tree.quantized import fitting

#: One for each seed of training.
MODELS = ("unet-s0", "unet-s1", "unet-s2")
#: Steps of the samplers, where a question does not sweep them.
STANDARD = 20
#: Every plan has room for so many steps, so that one compiled step serves all.
ROOM = 200
#: Times at which the predicted noise is compared on noisy held-out digits.
TIMES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.97)
#: What a GGUF type is on a network of convolutions: kernels as rows of in 9, or 3x3 kernels left, or cast.
READINGS = ("rows", "kept", "f16")
Reading: TypeAlias = Literal["rows", "kept", "f16"]
#: A forward pass that also takes layers with quantized inputs.
HOOKS = Hooks(product=tree.product)

PerSample: TypeAlias = NDArray[np.float64]
Drawn: TypeAlias = NDArray[np.float64]
_PEAK = 2.0  # of pixels in [-1, 1]
_CALIBRATION_DIGITS = 64


class Subject(NamedTuple):
    """A trained UNet, its kernels as matrices, and the noise that all its samples begin with."""

    name: str
    params: Params
    config: Config
    start: Float[Array, "samples size size image"]


@cache
def subject(name: str, samples: int, seed: int = 0) -> Subject:
    """The UNet of this name and so many samples' noise, the same for all networks."""
    params, config, _ = trained_digits.load(name)
    start = jax.random.normal(jax.random.key(seed), (samples, config.size, config.size, config.image))
    return Subject(name, unet.matrices(params), config, start)


# --- images ---------------------------------------------------------------------------------------------------------


def plan_of(steps: int, solver: Solver = "ddim") -> Plan:
    """So many steps of a solver on the cosine schedule."""
    return plan(cosine_schedule(steps), solver, room=ROOM)


def images(
    of: Subject,
    params: dict[str, Any],
    steps: int = STANDARD,
    *,
    solver: Solver = "ddim",
    hooks: Hooks = HOOKS,
    other: Other | None = None,
) -> Drawn:
    """What a network, quantized or not, makes of the noise, (samples, size, size, image)."""
    how = plan_of(steps, solver)
    found = unet_sampling.sample(params, of.start, plan=how, config=of.config, hooks=hooks, other=other)
    return np.asarray(found, np.float64)


def states(of: Subject, params: dict[str, Any], steps: int = STANDARD, *, solver: Solver = "ddim") -> Drawn:
    """The same before the first step and after each, (steps + 1, samples, size, size, image)."""
    walked = unet_sampling.walk(params, of.start, plan=plan_of(steps, solver), config=of.config, hooks=HOOKS)
    return np.asarray([np.asarray(x, np.float64) for x in walked])


@cache
def unquantized(name: str, samples: int, steps: int = STANDARD, solver: Solver = "ddim", seed: int = 0) -> Drawn:
    """Images of the network as it was trained."""
    of = subject(name, samples, seed)
    return images(of, of.params, steps, solver=solver)


class Moved(NamedTuple):
    """How each sample differs from the one of the same noise.

    Attributes:
        distance: ``||x̂ - x|| / ||x||``.
        psnr: peak signal-to-noise ratio in decibels, of pixels in [-1, 1]; infinite where nothing moved.
        largest: change of the pixel that changes most, black to white being 2.
        flips: 1 where the classifier sees another digit.
    """

    distance: PerSample
    psnr: PerSample
    largest: PerSample
    flips: PerSample

    def columns(self) -> dict[str, float]:
        """Medians, and the share of flips, with their standard errors over the samples."""
        medians = {name: median(values) for name, values in self._asdict().items() if name != "flips"}
        return columns(**medians, flips=mean(self.flips))


def moved(x: Drawn, x_hat: Drawn) -> Moved:
    """Samples compared with others of the same noise."""
    squares, power = (np.sum(a.reshape(len(a), -1) ** 2, axis=1) for a in (x_hat - x, x))
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(_PEAK**2 * x[0].size / squares)
    largest = np.abs(x_hat - x).reshape(len(x), -1).max(axis=1)
    seen = digit_classifier.load().labels
    return Moved(np.sqrt(squares / power), psnr, largest, (seen(x_hat) != seen(x)).astype(float))


def median(values: PerSample) -> Estimate:
    """Median over samples; its standard error is half the way between the ranks ``n / 2 ± sqrt(n) / 2``.

    >>> median(np.arange(101.0))
    Estimate(value=50.0, se=5.0)

    Source: the normal limit of the binomial interval, David and Nagaraja, "Order statistics" (2003), section 7.1.
    """
    ordered, n = np.sort(values), len(values)
    ranks = np.clip([(n - np.sqrt(n)) / 2, (n + np.sqrt(n)) / 2 - 1], 0, n - 1).round().astype(int)
    with np.errstate(invalid="ignore"):
        width = np.nan_to_num(ordered[ranks[1]] - ordered[ranks[0]])
    return Estimate(float(np.median(values)), float(width / 2))


# --- their distribution ---------------------------------------------------------------------------------------------


def held_out(number: int) -> Drawn:
    """The first so many digits that no training saw."""
    return np.asarray(digits.held_out().images[:number], np.float64)


def frechet(x: Drawn) -> Frechet:
    """Fréchet distance of samples to as many held-out digits, by the classifier's features."""
    seen = digit_classifier.load().features
    return frechet_distance(seen(x), seen(held_out(len(x))))


def frechet_added(x: Drawn, x_hat: Drawn) -> Increase:
    """How much further than ``x`` samples of the same noise lie from held-out digits."""
    seen = digit_classifier.load().features
    return frechet_increase(seen(x), seen(x_hat), seen(held_out(len(x))))


# --- the noise predicted in one call --------------------------------------------------------------------------------


class NoiseError(NamedTuple):
    """Errors of the predicted noise, at each time and for each held-out digit.

    Attributes:
        squares: ``||ε̂ - ε||²``, ε what the unquantized network predicts; (times, digits).
        power: ``||ε||²``.
    """

    squares: NDArray[np.float64]
    power: NDArray[np.float64]

    def relative(self) -> Estimate:
        """``||ε̂ - ε|| / ||ε||`` over all times and digits; standard error over the digits."""
        return root_ratio(self.squares.sum(axis=0), self.power.sum(axis=0))

    def at_times(self) -> list[Estimate]:
        """The same at each time."""
        return [root_ratio(a, b) for a, b in zip(self.squares, self.power, strict=True)]


@partial(jax.jit, static_argnames=("config", "hooks"))
def _noise(params: Any, x: Array, t: Array, config: Config, hooks: Hooks) -> Array:
    return unet.forward(params, x, t, config, hooks=hooks)


def noisy_images(clean: Drawn, times: Iterable[float], seed: int = 0) -> tuple[Array, Array]:
    """Images with noise at every time, and these times: (times images, size, size, image), (times images,)."""
    t = jnp.repeat(jnp.asarray(list(times), jnp.float32), len(clean))
    share = share_of(t)[:, None, None, None]
    x = jnp.tile(jnp.asarray(clean, jnp.float32), (len(t) // len(clean), 1, 1, 1))
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), 1), x.shape)
    return jnp.sqrt(share) * x + jnp.sqrt(1 - share) * noise, t


def predicted_noise(
    of: Subject, params: dict[str, Any], number: int, *, times: tuple[float, ...] = TIMES, hooks: Hooks = HOOKS
) -> Drawn:
    """Noise that a network sees in so many noisy held-out digits, (times, digits, size, size, image)."""
    x, t = noisy_images(held_out(number), times)
    found = np.asarray(_noise(params, x, t, of.config, hooks), np.float64)
    return found.reshape(len(times), number, *found.shape[1:])


@cache
def reference_noise(name: str, number: int, times: tuple[float, ...] = TIMES) -> Drawn:
    """The same of the network as it was trained."""
    of = subject(name, 1)
    return predicted_noise(of, of.params, number, times=times)


def noise_error(
    of: Subject, params: dict[str, Any], number: int, *, times: tuple[float, ...] = TIMES, hooks: Hooks = HOOKS
) -> NoiseError:
    """How far the predicted noise moves in one call."""
    exact = reference_noise(of.name, number, times)
    error = predicted_noise(of, params, number, times=times, hooks=hooks) - exact
    return NoiseError(*((a * a).sum(axis=(2, 3, 4)) for a in (error, exact)))


# --- weights --------------------------------------------------------------------------------------------------------


def matrices(params: Params) -> dict[str, Array]:
    """The weights that policies quantize, by name."""
    return {name: w for name, w in params.items() if w.ndim == 2}


def kernels(config: Config) -> tuple[str, ...]:
    """Names of the 3x3 convolutions."""
    return tuple(name for name, shape in unet.shapes(config).items() if shape[2:] == (3, 3))


def as_read(config: Config, spec: str, reading: Reading) -> dict[str, Any]:
    """A rule for every matrix: one spec for all, or another fate for the 3x3 kernels.

    Tools differ. "rows": kernels (out, in 9) are cut into blocks along their rows, and a matrix whose rows are no
    whole blocks is f16; "kept": 3x3 kernels stay in bfloat16; "f16": 3x3 kernels are cast to f16.
    """
    fate = {"rows": {}, "kept": dict.fromkeys(kernels(config)), "f16": dict.fromkeys(kernels(config), "f16")}
    return fate[reading] | {"*": spec}


def quantized(
    of: Subject, rules: Policy | dict[str, Any] | Treatment | str, *, inputs: dict[str, Array] | None = None
) -> QuantizedTree:
    """A network under a policy, calibrated on noisy training digits where that is needed.

    A type of blocks that do not fill the rows of a matrix, nor does what it falls back to, is f16 there.
    """
    known, found = policy(rules), matrices(of.params)
    known.require_matches(found)
    if inputs is None and any(treatment.needs_inputs for _, treatment in known.rules):
        inputs = calibration_inputs(of.name)
    exact = {name: _fitted(known.treatment(name), w.shape[1]) for name, w in found.items()}
    return tree.quantize(of.params, policy(exact), inputs=inputs)


def _fitted(treatment: Treatment, width: int) -> Treatment:
    q = None if treatment.of_weights is None else fitting(treatment.of_weights, width)
    if not isinstance(q, BlockFormat) or width % q.size == 0:
        return treatment
    return Treatment("f16", treatment.activations, static=treatment.static)


@cache
def calibration_inputs(name: str) -> dict[str, Array]:
    """Inputs of every linear layer and convolution, on training digits with noise at all the times."""
    return inputs_of(subject(name, 1))


def inputs_of(of: Subject, times: tuple[float, ...] = TIMES, number: int = _CALIBRATION_DIGITS) -> dict[str, Array]:
    """The same of any parameters: (times digits pixels, in)."""
    x, t = noisy_images(np.asarray(digits.training().images[:number], np.float64), times)

    def forward(params: Any, product: Any) -> Array:
        return unet.forward(params, x, t, of.config, hooks=Hooks(product=product, unfolded=True))

    return tree.site_inputs(forward, of.params)


def relative_errors(params: Params, changed: Params) -> dict[str, float]:
    """``||ŵ - w|| / ||w||`` of each matrix, in float64."""
    found = {}
    for name, w in matrices(params).items():
        exact = np.asarray(w, np.float64)
        found[name] = float(np.linalg.norm(np.asarray(changed[name], np.float64) - exact) / np.linalg.norm(exact))
    return found


def noisy(params: Params, size: float | dict[str, float], seed: int) -> Params:
    """Normal noise added to each matrix, of so large a part of its rms; one size for all, or one for each name."""
    sizes = size if isinstance(size, dict) else dict.fromkeys(matrices(params), size)
    changed = dict(params)
    for number, (name, w) in enumerate(matrices(params).items()):
        if name in sizes:
            noise = np.random.default_rng((seed, number)).normal(size=w.shape)
            changed[name] = w + jnp.asarray(sizes[name] * noise, w.dtype) * jnp.sqrt(jnp.mean(w * w))
    return changed


def rms(values: Iterable[float]) -> float:
    """Root of the mean square.

    >>> rms([3.0, 4.0, 5.0, 0.0])
    3.5355339059327378
    """
    return float(np.sqrt(np.mean(np.square(list(values)))))


def over_trainings(values: list[float]) -> Estimate:
    """Mean over trainings and its standard error; of one training the error is not known, and 0."""
    return mean(values) if len(values) > 1 else Estimate(values[0], 0.0)
