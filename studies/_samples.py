"""How the samples of a diffusion sampler with errors compare: with the same ones without errors, and with the data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim.measure.ratios import columns, mean, root_ratio
from quantsim.outputs.diffusion import Followed, energy_distance

from ._sampler import EXACT_STEPS, MODES, Kind, Problem, Size, problem, samples

DISCRETIZATION = "the sampler itself"


class Comparison(NamedTuple):
    """Two sets of samples from one start, and how far each is from the data."""

    squared_distance: Float[Array, "repeats samples"]
    squared_sample: Float[Array, "repeats samples"]
    mode: Float[Array, "repeats samples"]
    mode_hat: Float[Array, "repeats samples"]
    spread: Float[Array, "repeats samples"]
    spread_hat: Float[Array, "repeats samples"]
    from_data: Float[Array, " repeats"]
    from_data_hat: Float[Array, " repeats"]


@jax.jit
def compared(of: Problem, x: Float[Array, "repeats samples dimensions"], x_hat: Array) -> Comparison:
    """What is compared, by repeat."""

    def one(repeat: tuple) -> Comparison:
        each, a, b = repeat
        return Comparison(
            squared_distance=jnp.sum((b - a) ** 2, axis=1),
            squared_sample=jnp.sum(a**2, axis=1),
            mode=each.mixture.mode_of(a),
            mode_hat=each.mixture.mode_of(b),
            spread=each.mixture.spread(a),
            spread_hat=each.mixture.spread(b),
            from_data=energy_distance(a, each.data),
            from_data_hat=energy_distance(b, each.data),
        )

    return jax.lax.map(one, (of, x, x_hat))


def identity_and_quality(found: Comparison) -> dict[str, float]:
    """Identity: distance of samples that stay in their mode, median of all, share that flips. Quality: the rest.

    rel_rms = ‖x̂ − x‖ / ‖x‖ of those that stay; excess = energy distance from the data, more than without errors;
    spread = rms distance from the means, over that without errors; least_mode = samples in the mode that loses most,
    likewise.
    """
    c = found._replace(**{name: np.asarray(a, np.float64) for name, a in found._asdict().items()})
    stays = c.mode == c.mode_hat
    medians = np.sqrt(np.median(c.squared_distance / c.squared_sample, axis=1))
    counts = [[np.bincount(modes.astype(int), minlength=MODES) for modes in m] for m in (c.mode, c.mode_hat)]
    kept = np.where(np.array(counts[0]) > 0, np.array(counts[1]) / np.maximum(counts[0], 1), 1.0)
    return columns(
        rel_rms=root_ratio(c.squared_distance * stays, c.squared_sample * stays),
        median=mean(medians),
        flipped=mean(1 - stays.mean(axis=1)),
        excess=mean(c.from_data_hat - c.from_data),
        spread=root_ratio(c.spread_hat, c.spread),
        least_mode=mean(kept.min(axis=1)),
    )


def row_of(of: Problem, found: Followed, about: dict[str, Any]) -> dict[str, Any]:
    """Identity and quality of samples, the relative error of the noise in a step, and how much of it arrives."""
    row = about | identity_and_quality(compared(of, found.exact, found.spoiled))
    of_step = root_ratio(found.squared_noise_errors, found.squared_noise)
    row |= columns(of_step=of_step)
    return row | {"arrives": row["rel_rms"] / of_step.value, "arrives_se": row["rel_rms_se"] / of_step.value}


def discretization(size: Size, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """What the sampler itself is off at so many steps, beside EXACT_STEPS of them."""
    of, exact = problem(size), Kind("exact")
    reference = samples(size, of, exact, EXACT_STEPS).exact
    return [
        {"kind": "steps", "error": DISCRETIZATION, "steps": number}
        | identity_and_quality(compared(of, reference, samples(size, of, exact, number).exact))
        for number in steps
    ]
