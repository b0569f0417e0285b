"""Outliers injected into the diffusion UNet without a change of what it computes, exact in real arithmetic.

Between two linear maps flows something that can be scaled by c where it is written and by 1/c where it is read:

============  ============================  ================================  ==================================
site          what flows                    written by                        read by
============  ============================  ================================  ==================================
attn_norm     a channel into attention      gain and bias of group_norm       columns of to_q, to_k, to_v
query_key     a channel of the keys         row and bias of to_k              row and bias of to_q
value_output  a channel of the values       row and bias of to_v              column of to_out
upsampler     a channel that is upsampled   row and bias of upsamplers.proj   a channel of upsamplers.conv's kernels
============  ============================  ================================  ==================================

No other pair of layers is exact. Behind every other convolution stands a GroupNorm, whose mean and variance are those
of a group and move with each channel of it, or SiLU, which is not linear; a skip and the residual stream are read by a
norm somewhere. Scaled by c > 1, activations have outlier channels; scaled by 1/c, the weights that read them have
outlier columns. A power of two moves no bit of the predicted noise, short of overflow and underflow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from quantsim.models.unet import Config, Params, shapes

Channels: TypeAlias = np.ndarray | list[int] | tuple[int, ...]
Into: TypeAlias = Literal["weights", "activations"]

#: Place -> channels of what flows there.
Which: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Injection:
    """What is injected where.

    Attributes:
        site: one of ``SITES``.
        factor: c, above 0; at 1 nothing changes.
        channels: how many channels of each place.
        seed: of the choice of channels, which is another one in each place.
        places: "mid_block.attentions.0", for example, or "up_blocks.0.upsamplers.0"; all of the site by default.
        into: "activations", what flows times c, its readers over c; or "weights", the other way round.

    Raises:
        ValueError: for another site or target, and for numbers out of range.
    """

    site: str
    factor: float
    channels: int = 1
    seed: int = 0
    places: tuple[str, ...] | None = None
    into: Into = "weights"

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"no site {self.site!r}: choose one of {', '.join(SITES)}")
        if self.into not in ("weights", "activations"):
            raise ValueError(f'outliers go into "weights" or "activations", not {self.into!r}')
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"the factor of an injection is above 0 and finite, got {self.factor}")
        if self.channels < 1:
            raise ValueError(f"an injection takes at least one channel, got {self.channels}")


def places_of(config: Config, site: str) -> tuple[str, ...]:
    """Where a UNet has a site.

    >>> places_of(Config(), "upsampler"), len(places_of(Config(), "query_key"))
    (('up_blocks.0.upsamplers.0', 'up_blocks.1.upsamplers.0'), 3)
    """
    end = ".proj" if site == "upsampler" else ".to_q"
    return tuple(name.removesuffix(end) for name in shapes(config) if name.endswith(end))


def inject(params: Params, config: Config, injection: Injection) -> tuple[Params, Which]:
    """Parameters of the same function with outliers in them, and the channels that have them.

    Args:
        params: of the UNet, kernels or matrices; they are left as they are.
        config: of the UNet.
        injection: what, where, and how much.

    Raises:
        ValueError: for more channels than there are, or a place that the UNet has not.

    >>> params = {name: jnp.ones(shape) for name, shape in shapes(Config()).items()}
    >>> spoiled, which = inject(params, Config(), Injection("upsampler", 32.0))
    >>> at, ((channel,), _) = "up_blocks.0.upsamplers.0", which.values()
    >>> float(spoiled[f"{at}.proj"][channel, 0, 0, 0]), float(spoiled[f"{at}.conv"][0, channel, 0, 0])
    (0.03125, 32.0)
    """
    there = places_of(config, injection.site)
    places = there if injection.places is None else injection.places
    if wrong := [place for place in places if place not in there]:
        raise ValueError(f"{injection.site} is not at {wrong[0]!r}: it is at {', '.join(there) or 'no place'}")
    factor = injection.factor if injection.into == "activations" else 1 / injection.factor
    which: Which = {}
    for place in places:
        which[place] = _drawn(injection, config, place, number=there.index(place))
        params = SITES[injection.site](params, place, which[place], factor=factor)
    return params, which


def _drawn(injection: Injection, config: Config, place: str, *, number: int) -> tuple[int, ...]:
    end = "conv" if injection.site == "upsampler" else "to_q"
    there = shapes(config)[f"{place}.{end}"][1]
    if injection.channels > there:
        raise ValueError(f"{place} has {there} channels, {injection.channels} were asked for")
    key = jax.random.fold_in(jax.random.key(injection.seed), number)
    drawn = np.argsort(np.asarray(jax.random.bits(key, (there,))), stable=True)[: injection.channels]
    return tuple(np.sort(drawn).tolist())


# --- the sites: what flows times the factor, its readers over it ----------------------------------------------------


def attn_norm(params: Params, place: str, channels: Channels, *, factor: float) -> Params:
    """Gains and biases of group_norm times the factor, columns of to_q, to_k and to_v over it."""
    found = _written(params, f"{place}.group_norm", channels, factor)
    for name in ("to_q", "to_k", "to_v"):
        found = _read(found, f"{place}.{name}", channels, 1 / factor)
    return found


def query_key(params: Params, place: str, channels: Channels, *, factor: float) -> Params:
    """Rows of to_k times the factor, the rows of to_q that meet them over it."""
    found = _written(params, f"{place}.to_k", channels, factor)
    return _written(found, f"{place}.to_q", channels, 1 / factor)


def value_output(params: Params, place: str, channels: Channels, *, factor: float) -> Params:
    """Rows of to_v times the factor, columns of to_out over it."""
    return _read(_written(params, f"{place}.to_v", channels, factor), f"{place}.to_out", channels, 1 / factor)


def upsampler(params: Params, place: str, channels: Channels, *, factor: float) -> Params:
    """Output channels of the pointwise convolution times the factor, input channels of the 3x3 one over it."""
    return _read(_written(params, f"{place}.proj", channels, factor), f"{place}.conv", channels, 1 / factor)


#: Every place where outliers can be injected.
SITES: dict[str, Callable[..., Params]] = {
    "attn_norm": attn_norm,
    "query_key": query_key,
    "value_output": value_output,
    "upsampler": upsampler,
}


def _written(params: Params, name: str, channels: Channels, factor: float) -> Params:
    """Output channels and their biases times the factor."""
    w, bias = params[name], params[f"{name}.bias"]
    by = _factors(len(bias), channels, factor, like=w)
    return params | {name: (w.reshape(len(bias), -1) * by[:, None]).reshape(w.shape), f"{name}.bias": bias * by}


def _read(params: Params, name: str, channels: Channels, factor: float) -> Params:
    """Input channels times the factor, all pixels of a kernel alike."""
    w = params[name]
    # the writer of what is read here is as wide as this layer: all sites are between layers of one width
    by = _factors(w.shape[0], channels, factor, like=w)
    return params | {name: (w.reshape(w.shape[0], len(by), -1) * by[None, :, None]).reshape(w.shape)}


def _factors(number: int, channels: Channels, factor: float, *, like: Array) -> Array:
    by = np.ones(number)
    by[np.asarray(channels, int)] = factor
    return jnp.asarray(by, like.dtype)
