"""Static quantizers of activations: scales found once, from calibration data, and frozen."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from quantsim import formats
from quantsim._types import ArrayLike, PRNGKey, Scale, Weights, ZeroPoint
from quantsim.granularity import Channel, Granularity, Tensor, from_blocks, to_blocks
from quantsim.numerics import ieee
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray
from quantsim.quantizer.inputs import as_key, as_weights
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.scaled import Quantizer
from quantsim.quantizer.scaled_blocks import units_of
from quantsim.rounding import encode, round_integer


@partial(jax.tree_util.register_dataclass, data_fields=["scale", "zero_point"], meta_fields=["quantizer"])
@dataclass(frozen=True)
class Static:
    """A quantizer whose scales are fixed, one for everything or one for each input channel; a pytree, see ``static``.

    Attributes:
        scale: () or (in,), in units of the activations.
        zero_point: like the scale, or None.
        quantizer: format, granularity (``Tensor`` or ``Channel(-1)``) and rounding.
    """

    scale: Scale | Any
    zero_point: ZeroPoint | Any | None
    quantizer: Quantizer | Any

    def quantize(self, x: ArrayLike, *, key: PRNGKey | None = None) -> QuantizedArray:
        """Codes of activations (..., in) with the frozen scales; what lies beyond them saturates.

        Raises:
            ValueError: for a NaN or infinity, other channels than those of the calibration, or a missing key.
        """
        x32 = as_weights(x, what="activations")
        self._require_channels(x32)
        return replace(_encoded(self, x32, as_key(key)), ndim=x32.ndim)

    def roundtrip(self, x: ArrayLike, *, key: PRNGKey | None = None) -> Weights:
        """``quantize(x).dequantize()``."""
        return self.quantize(x, key=key).dequantize()

    def _require_channels(self, x: Weights) -> None:
        if self.scale.shape and x.shape[-1:] != self.scale.shape:
            raise ValueError(f"calibrated on {self.scale.shape[0]} channels, got activations of shape {x.shape}")

    def __str__(self) -> str:
        """The spec of the quantizer, said to be static."""
        return f"static({self.quantizer})"


def static(q: AbstractQuantizer | str, inputs: ArrayLike, *, per_channel: bool = False) -> Static:
    """Freeze the scales that ``q`` finds on calibration inputs (..., in): ``scale = calibrate(inputs)``.

    Args:
        q: a quantizer of scaled elements per tensor, or its spec: "int8:tensor", "int8:tensor:p99.9:…".
        inputs: calibration data; all axes but the last are tokens.
        per_channel: a scale for each input channel instead of one. It stands inside the sum over the inputs, so that
            there is no integer product.

    Raises:
        TypeError: if ``q`` is no quantizer.
        ValueError: if it is not one per tensor, for a NaN or infinity, or without a token.

    >>> frozen = static("int8:tensor", [[1.0, -2.54]])
    >>> round(float(frozen.scale), 6), frozen.quantize([[0.5, 9.0]]).codes.tolist()
    (0.02, [[25, 127]])
    """
    known = parse(q)
    if not isinstance(known, Quantizer) or not isinstance(known.granularity, Tensor):
        raise ValueError(
            f"a static scale is one for a tensor, such as int8:tensor, not {known}: scales of it are dynamic"
        )
    x = as_weights(inputs, what="calibration inputs")
    if x.ndim < 1 or not x.size:
        raise ValueError(f"a scale is calibrated on activations (..., in) of at least one token, got {x.shape}")
    granularity: Granularity = Channel(-1) if per_channel else Tensor()
    found = replace(known, granularity=granularity, rounding="even").quantize(x.reshape(-1, x.shape[-1]))
    return Static(found.scale, found.zero_point, replace(known, granularity=granularity))


@jax.jit
def _encoded(s: Static, x: Weights, key: PRNGKey | None) -> QuantizedArray:
    q = s.quantizer
    assert q.granularity is not None
    blocks, scale = to_blocks(x, q.granularity), s.scale.reshape(-1, 1)
    units = units_of(q, blocks, scale)
    if s.zero_point is None:
        codes = encode(units, q.format, q.rounding, key)
    else:
        assert isinstance(q.format, formats.Integer)
        shifted = round_integer(units, q.rounding, key) + s.zero_point.reshape(-1, 1).astype(jnp.float32)
        top = formats.last_code(q.format)
        codes = ieee.clip(shifted, 0.0, top).astype(jnp.uint8 if q.format.bits <= 8 else jnp.uint16)
    return QuantizedArray(from_blocks(codes, q.granularity, x.shape), s.scale, s.zero_point, q)
