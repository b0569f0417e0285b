"""Activations as populations, token × channel: specs such as ``ar(rho=0.9)+channels(count=4,magnitude=30)+relu``."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from quantsim._types import Activations, ArrayLike, PRNGKey, Shape
from quantsim.populations import spec
from quantsim.populations.activation_laws import (
    ActivationLaw,
    Autoregressive,
    Independent,
    LowRank,
    Moments,
    Rows,
    SwiGLU,
)
from quantsim.populations.activation_steps import ConstantRows, Massive, OutlierChannels, ReLU, Shift, Step
from quantsim.populations.arguments import check_key, checked_shape, checked_start, words_of
from quantsim.populations.draws import Index, indices
from quantsim.populations.parameters import Vector

_LAWS = {"ar": Autoregressive, "lowrank": LowRank, "swiglu": SwiGLU}
_STEPS = {s.name: s for s in (OutlierChannels, Massive, ConstantRows, Shift, ReLU)}


@dataclass(frozen=True)
class ActivationPopulation:
    """Activations of independent tokens: a law, and steps that follow it; frozen, hashable, ``str`` gives its spec.

    >>> from quantsim.populations import key
    >>> pop = parse_activations("normal+channels(magnitude=30,count=1)")
    >>> x = pop.sample(key(0), (4, 8))
    >>> bool((pop.sample(key(0), (2, 8), start=2) == x[2:]).all())
    True
    """

    law: ActivationLaw
    steps: tuple[Step, ...] = ()

    def sample(self, key: PRNGKey, shape: Shape, *, start: int = 0) -> Activations:
        """Tokens ``start …`` of the infinite sequence that ``key`` names, float32, (tokens, channels).

        Element (token, channel) is a function of key, token, channel and number of channels: any chunk of tokens is a
        slice of the whole.

        Args:
            key: typed key, from ``populations.key(seed)``.
            shape: (tokens, channels).
            start: index of the first token.

        Raises:
            TypeError: if the key is no typed key, or a number no whole number.
            ValueError: if the shape is not (tokens, channels) with channels, or negative, or smaller than a set of
                channels that a step singles out.
        """
        shape = checked_shape(shape)
        if len(shape) != 2 or not shape[1]:
            raise ValueError(f"activations are drawn as (tokens, channels) with at least one channel, got {shape}")
        check_key(key)
        first = checked_start(start)
        if not isinstance(first, int):
            raise TypeError("the first token is a whole number")
        if not shape[0]:
            return jnp.zeros(shape, jnp.float32)
        return _drawn(self, shape, key, words_of(first * shape[1]), words_of(first))

    def mean(self, channels: int) -> Vector:
        """E[x], (channels,), in float64."""
        return self._moments(channels).mean

    def second_moment(self, channels: int) -> Vector:
        """E[x xᵀ], (channels, channels), exact in float64.

        Raises:
            NoDistributionError: where there is no closed form (ReLU of what is not normal), or no second moment.

        >>> parse_activations("normal+shift(mean=1)+relu").second_moment(1).round(4).tolist()
        [[1.9247]]
        """
        return self._moments(channels).second

    def _moments(self, channels: int) -> Moments:
        found = self.law.moments(channels)
        for step in self.steps:
            found = step.moments(found)
        return found

    def __str__(self) -> str:
        """The spec, which ``parse_activations`` reads back."""
        return "+".join(map(str, (self.law, *self.steps)))


@partial(jax.jit, static_argnums=(0, 1))
def _drawn(pop: ActivationPopulation, shape: Shape, key: PRNGKey, element: Index, token: Index) -> Rows:
    tokens, channels = shape
    x = pop.law.draw(jax.random.fold_in(key, 0), indices(element, tokens * channels), channels)
    for number, step in enumerate(pop.steps, 1):
        x = step.apply(x, jax.random.fold_in(key, number), indices(token, tokens))
    return x


def parse_activations(text: str | ActivationPopulation) -> ActivationPopulation:
    """Activations of a spec: a law, then steps, joined by ``+``.

    Laws are every population of weights (``normal(std=2)``, ``t5+outliers(rate=0.001,magnitude=30)``), ``ar(rho,std)``,
    ``lowrank(rank,noise,seed)`` and ``swiglu(std)``; steps ``channels(magnitude,count|rate,seed)``,
    ``massive(rate,value,count,seed)``, ``constant(rate,std)``, ``shift(mean)`` and ``relu``.

    Raises:
        TypeError: if it is no text.
        ValueError: if it is no spec of activations.

    >>> print(parse_activations("swiglu + channels(count=2, magnitude=30)"))
    swiglu+channels(magnitude=30,count=2)
    """
    if isinstance(text, ActivationPopulation):
        return text
    if not isinstance(text, str):
        raise TypeError(f"the spec of activations is text, got {text!r}")
    parts = spec._split(text.replace(" ", ""), "+")
    at = next((k for k, part in enumerate(parts) if part.partition("(")[0] in _STEPS), len(parts))
    steps = []
    for part in parts[at:]:
        name, arguments = spec._call(part, text)
        if name not in _STEPS:
            raise ValueError(f"{part!r} in activations {text!r} is no step; known are {', '.join(_STEPS)}")
        steps.append(spec._make(_STEPS[name], arguments, text))
    return ActivationPopulation(_law("+".join(parts[:at]), text), tuple(steps))


def _law(part: str, text: str) -> ActivationLaw:
    if part.partition("(")[0] in _LAWS:
        name, arguments = spec._call(part, text)
        return spec._make(_LAWS[name], arguments, text)
    if not part:
        raise ValueError(f"activations {text!r} start with a law, for example normal+{text}")
    return Independent(spec.parse(part))


def second_moment(x: ArrayLike) -> Vector:
    """E[x xᵀ] measured: ``XᵀX / tokens`` in float64 of activations (..., channels), all axes but the last being tokens.

    Raises:
        ValueError: if there is no token.

    >>> second_moment([[1.0, 2.0], [3.0, 0.0]]).tolist()
    [[5.0, 1.0], [1.0, 2.0]]
    """
    rows = np.asarray(x, np.float64)
    if rows.ndim < 1 or not rows.size:
        raise ValueError(f"a second moment takes activations (..., channels) of at least one token, got {rows.shape}")
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.T @ rows / rows.shape[0]
