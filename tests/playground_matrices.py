"""Matrices and quantizers that the page and the package are held against each other on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

import quantsim as qs
from quantsim.formats import Float
from quantsim.formats import parse as parse_format
from quantsim.lab.matrix import document_matrix
from quantsim.lab.report.playground.facts import GRANULARITIES, SCALE_FORMATS, format_facts
from quantsim.measure import error
from quantsim.quantizer.blockformats import BlockFormat
from quantsim.quantizer.blockformats.coding import Stored
from quantsim.rounding import decode

SHAPE = (16, 32)
_TINY = np.float32(2.0**-126)
_LARGEST = np.finfo(np.float32).max


def matrices() -> dict[str, np.ndarray]:
    """The documents' matrix, normal weights with one of 1000, and what breaks careless arithmetic."""
    dragged = np.random.default_rng(7).normal(0.0, 0.3, SHAPE).astype(np.float32)
    dragged[3, 5] = -1000.0
    return {"documents": document_matrix(), "dragged": dragged, "hostile": hostile(), "small": small()}


def hostile() -> np.ndarray:
    """Zeros of either sign, huge and tiny weights side by side, ties, powers of two and their neighbours."""
    draw = np.random.default_rng(11)
    w = draw.normal(0.0, 1.0, SHAPE).astype(np.float32)
    w[0] = 0.0
    w[1] = -0.0
    w[2, ::2], w[2, 1::2] = _LARGEST, -_LARGEST
    w[3] *= np.float32(1e38)
    w[4] = np.arange(-16, 16) / np.float32(2)  # ties, and an extreme that both signs nearly reach
    w[5] = np.arange(32) - np.float32(15.5)
    w[6] = 2.0 ** np.arange(-16, 16, dtype=np.float32)
    w[7] = np.nextafter(w[6], np.float32(np.inf)) * np.where(np.arange(32) % 2, -1, 1)
    w[8] = np.nextafter(w[6], np.float32(0))
    w[9, :16], w[9, 16:] = 0.0, draw.normal(0.0, 1.0, 16)
    w[10] = np.repeat(np.float32([7.0, -7.0]), 16)  # of equals the first is the extreme
    w[11] = np.repeat(np.float32([-8.0, 8.0]), 16)
    w[12] *= np.float32(1e-20)
    w[13, 0] = 1e9
    w[14] = np.abs(w[14])
    w[15] = -np.abs(w[15])
    return w


def small() -> np.ndarray:
    """Subnormal weights, and those whose scales, products or errors are subnormal."""
    draw = np.random.default_rng(13)
    w = draw.normal(0.0, 1.0, SHAPE).astype(np.float32)
    sizes = 2.0 ** np.float32(
        [-149, -140, -130, -127, -126, -125, -124, -122, -120, -119, -118, -110, -100, -60, -30, -10]
    )
    w = (w * sizes[:, None]).astype(np.float32)
    w[0] = np.where(np.arange(32) % 3, np.float32(2.0**-149), np.float32(-(2.0**-149)))
    w[7, 0], w[7, 1] = _TINY, -_TINY
    w[13, :4] = np.float32([2.0**-149, -(2.0**-130), 0.0, -0.0])
    return w


def choices() -> list[tuple[str, str, str]]:
    """Format, granularity and scale format of everything that the page offers."""
    found = []
    for fact in format_facts():
        free = fact["size"] is None
        cuts, scales = (tuple(GRANULARITIES), SCALE_FORMATS) if free else (("channel",), ("f32",))
        found += [(fact["name"], cut, scale) for cut in cuts for scale in scales]
    return found


def spec_of(name: str, granularity: str, scale: str) -> str:
    """The spec of a choice."""
    if ":*" not in name:
        return name
    return name.replace("*", granularity) + ("" if scale == "f32" else f":{scale}")


def expected(spec: str, w: np.ndarray) -> dict[str, Any]:
    """Codes, scales, weights and errors as the package has them."""
    q = qs.parse(spec)
    found = q.quantize(w)
    values = found.dequantize()
    out = {"values": values, "errors": error(jnp.asarray(w), values)}
    if isinstance(q, BlockFormat):
        stored = q.coding.from_bytes(found.codes.reshape(-1, q.nbytes))
        out |= {"codes": stored.codes, "scale": stored.scales[0]}
        out |= {"minimum": stored.scales[1]} if len(stored.scales) > 1 else {}
    else:
        out |= {"codes": found.codes, "scale": found.scale, "zero": found.zero_point, "tensor": found.tensor_scale}
    return {name: np.asarray(v).ravel() for name, v in out.items() if v is not None}


def decoder(spec: str, w: np.ndarray, cell: int) -> Callable[[str, int], Any]:
    """Weights of the quantized ``w`` with the code of a cell, or what its block stores, replaced by other bits."""
    q = qs.parse(spec)
    found = q.quantize(w)
    if isinstance(q, BlockFormat):
        return _block_decoder(q, found, cell)

    def changed(part: str, bits: int) -> Any:
        if part == "code":
            codes = np.asarray(found.codes).copy()
            codes.view(np.uint8 if codes.itemsize == 1 else np.uint16).ravel()[cell] = _extended(bits, codes, q)
            return replace(found, codes=jnp.asarray(codes)).dequantize()
        if part == "tensor":
            return replace(found, tensor_scale=jnp.asarray(np.uint32(bits).view(np.float32))).dequantize()
        name = {"scale": "scale", "zero": "zero_point"}[part]
        stored = np.asarray(getattr(found, name)).copy()
        block = cell * stored.size // w.size
        given = isinstance(q, qs.Quantizer) and part == "scale"
        stored.reshape(-1)[block] = _scale(bits, q.scale_format) if given else bits
        return replace(found, **{name: jnp.asarray(stored)}).dequantize()

    return changed


def _scale(bits: int, fmt: Float) -> Any:
    """The scale that bits of its format mean."""
    wide = np.uint32(bits).view(np.float32)
    dtype = np.uint8 if fmt.bits == 8 else np.uint16
    return wide if fmt.bits == 32 else decode(jnp.asarray(bits, dtype), parse_format(fmt.name))


def _extended(bits: int, codes: np.ndarray, q: Any) -> int:
    """Bits of a signed integer in the width that it is stored in."""
    width = q.format.bits if isinstance(q, qs.Quantizer) else q.element.bits
    signed = codes.dtype.kind == "i" and bits >= 2 ** (width - 1)
    return (bits - 2**width) % 2 ** (8 * codes.itemsize) if signed else bits


def _block_decoder(q: BlockFormat, found: Any, cell: int) -> Callable[[str, int], Any]:
    stored = q.coding.from_bytes(found.codes.reshape(-1, q.nbytes))

    def changed(part: str, bits: int) -> Any:
        codes, scales = np.asarray(stored.codes).copy(), [np.asarray(s).copy() for s in stored.scales]
        if part == "code":
            codes.view(np.uint8).reshape(-1)[cell] = bits
        else:
            half = np.uint16(bits).view(np.float16)
            scales[{"scale": 0, "minimum": 1}[part]][cell // q.size] = np.float32(half)
        return q.coding.values(Stored(jnp.asarray(codes), tuple(map(jnp.asarray, scales))))

    return changed
