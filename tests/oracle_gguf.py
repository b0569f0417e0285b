"""What others say of GGUF: bytes of the C reference, and the ``gguf`` package; and weights to try. No quantsim here.

``tests/data/ggml.npz``: ``x`` (64, 512) and its bytes of every type, made with libggml 0.13.1, ``ggml_quantize_chunk``,
no importances. ``tests/data/ggml_hard.npz``: rows that are hard to search, made with the same call of llama.cpp's ggml
0.25.3, once without and once with an imatrix. ``ggml_fused.npz``: rows of t5 weights, made in the same way.
``ggml_lattices.npz``: bytes of both files' weights, and with the imatrix those of the hard ones, of the types IQ1, IQ2
and IQ3, made with libgguf 0.2.2; where the reference needs importances, they are ones.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as Kind

#: Largest weight in units of the scale, or half the range, of the types that the package can quantize.
TOPS = {"Q4_0": 8, "Q5_0": 16, "Q4_1": 7.5, "Q5_1": 15.5, "Q8_0": 127, "TQ1_0": 1, "TQ2_0": 1, "MXFP4": 6}
AFFINE = {"Q4_1", "Q5_1"}
#: Types whose groups of codes are points of a grid: length of a group.
LATTICES = {"IQ1_S": 8, "IQ1_M": 8, "IQ2_XXS": 8, "IQ2_XS": 8, "IQ2_S": 8, "IQ3_XXS": 4, "IQ3_S": 4}

#: Where the codes lie in a block: first byte, byte after the last, first bit of the code there, bits in each field.
_FIELDS = {
    **{"Q4_0": [(2, 18, 0, 4)], "Q4_1": [(4, 20, 0, 4)], "Q8_0": [(2, 34, 0, 8)], "IQ4_NL": [(2, 18, 0, 4)]},
    **{"Q5_0": [(2, 6, 4, 1), (6, 22, 0, 4)], "Q5_1": [(4, 8, 4, 1), (8, 24, 0, 4)], "Q2_K": [(16, 80, 0, 2)]},
    **{"Q3_K": [(0, 32, 2, 1), (32, 96, 0, 2)], "Q4_K": [(16, 144, 0, 4)], "Q5_K": [(16, 48, 4, 1), (48, 176, 0, 4)]},
    **{"Q6_K": [(0, 128, 0, 4), (128, 192, 4, 2)], "IQ4_XS": [(8, 136, 0, 4)], "TQ2_0": [(0, 64, 0, 2)]},
    **{"TQ1_0": [(0, 52, 0, 8)], "MXFP4": [(1, 17, 0, 4)], "NVFP4": [(4, 36, 0, 4)]},
}
#: The codes from the lowest level to the highest, where these are not all numbers of so many bits.
_CODES = {
    "Q8_0": [code & 255 for code in range(-127, 128)],
    "TQ1_0": [-(-code * 121 * 256 // 243) for code in range(3)],  # a byte of five equal digits
    "TQ2_0": [0, 1, 2],
    **{name: [15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7] for name in ("MXFP4", "NVFP4")},
}


@lru_cache
def reference(file: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / f"{file}.npz") as data:
        return dict(data)


@lru_cache
def everything() -> np.ndarray:
    """The weights of both files, (102, 512)."""
    return np.concatenate([reference("ggml")["x"], reference("ggml_hard")["x"]])


def expected(name: str) -> np.ndarray:
    """Their bytes; where the reference needs importances, all are 1."""
    if name in LATTICES:
        return reference("ggml_lattices")[name]
    return np.concatenate([reference("ggml")[name], reference("ggml_hard")[name]])


def quantize(w, name: str) -> np.ndarray:
    """The package's bytes."""
    with np.errstate(all="ignore"):
        return quants.quantize(np.asarray(w), Kind[name])


def dequantize(data, name: str) -> np.ndarray:
    """The package's weights."""
    with np.errstate(all="ignore"):
        return quants.dequantize(np.asarray(data), Kind[name])


def dequantize_by_definition(data, name: str) -> np.ndarray:
    """Weights of the types that the package cannot dequantize, of blocks of ggml-common.h."""
    fields = {
        "Q8_1": np.dtype([("d", "<f2"), ("sum", "<f2"), ("codes", "i1", 32)]),
        "Q8_K": np.dtype([("d", "<f4"), ("codes", "i1", 256), ("sums", "<i2", 16)]),
        "Q1_0": np.dtype([("d", "<f2"), ("codes", "u1", 16)]),
    }
    blocks = np.ascontiguousarray(data).view(fields[name])
    codes = blocks["codes"].astype(np.float32)
    if name == "Q1_0":
        codes = 2 * np.unpackbits(blocks["codes"], axis=-1, bitorder="little").astype(np.float32) - 1
    with np.errstate(all="ignore"):
        return (codes * blocks["d"].astype(np.float32)[..., None]).reshape(len(data), -1)


def levels(data, name: str) -> np.ndarray:
    """Every level that each weight could have with the scales as stored, (levels, rows, in), in the order of codes.

    Each code is written to all places in turn, and read by the package.
    """
    if name in LATTICES:
        return _levels_of_a_lattice(np.asarray(data), name)
    blocks = np.asarray(data).reshape(-1, GGML_QUANT_SIZES[Kind[name]][1]).copy()
    fields, found = _FIELDS[name], []
    for code in _CODES.get(name, range(2 ** sum(bits for *_, bits in fields))):
        for first, last, bit, bits in fields:
            blocks[:, first:last] = (code >> bit & 2**bits - 1) * (255 // (2**bits - 1))
        found.append(dequantize(blocks.reshape(data.shape), name))
    return np.stack(found)


def _levels_of_a_lattice(data: np.ndarray, name: str) -> np.ndarray:
    """For each code and each place of a group a point that has it there; the package's grids, our own writing."""
    kind = getattr(quants, name)
    kind.init_grid()
    grid = kind.grid.reshape(-1, LATTICES[name])
    found = []
    for negative, level in _signed_levels(name, grid):
        out = np.empty(0)
        for place in range(LATTICES[name]):
            point = int(np.flatnonzero(grid[:, place] == level)[0])
            weights = dequantize(_written(data, name, point, negative), name)
            out = weights if not out.size else out
            out[..., place :: LATTICES[name]] = weights[..., place :: LATTICES[name]]
        found.append(out)
    return np.stack(found)


def _signed_levels(name: str, grid: np.ndarray) -> list[tuple[bool, float]]:
    """Signs and levels, the lowest first."""
    levels = np.unique(grid)
    if name.startswith("IQ1"):
        return [(False, level) for level in levels]
    return [(True, level) for level in levels[::-1]] + [(False, level) for level in levels]


def _written(data: np.ndarray, name: str, point: int, negative: bool) -> np.ndarray:
    """The bytes with this point for every group, and this sign for every weight."""
    blocks = data.reshape(-1, GGML_QUANT_SIZES[Kind[name]][1]).copy()
    sign = 255 * negative
    if name == "IQ2_XXS":
        words = blocks[:, 2:].reshape(-1, 8, 8)
        words[..., :4] = point
        words[..., 4:7], words[..., 7] = sign, words[..., 7] & 0xF0 | sign & 0x0F
        blocks[:, 2:] = words.reshape(len(blocks), -1)
    elif name == "IQ2_XS":
        blocks[:, 2:66:2], blocks[:, 3:66:2] = point & 255, point >> 8 | sign & 0xFE
    elif name == "IQ2_S":
        blocks[:, 2:34], blocks[:, 34:66], blocks[:, 66:74] = point & 255, sign, (point >> 8) * 0x55
    elif name == "IQ3_XXS":
        blocks[:, 2:66] = point
        words = blocks[:, 66:].reshape(-1, 8, 4)
        words[..., :3], words[..., 3] = sign, words[..., 3] & 0xF0 | sign & 0x0F
        blocks[:, 66:] = words.reshape(len(blocks), -1)
    elif name == "IQ3_S":
        blocks[:, 2:66], blocks[:, 66:74], blocks[:, 74:106] = point & 255, (point >> 8) * 0xFF, sign
    elif name == "IQ1_S":
        blocks[:, 2:34], high = point & 255, point >> 8
        blocks[:, 34::2] = (high | high << 3 | high << 6) & 255
        blocks[:, 35::2] = blocks[:, 35::2] & 0xF0 | (high | high << 3 | high << 6 | high << 9) >> 8
    else:
        blocks[:, :32], blocks[:, 32:48] = point & 255, blocks[:, 32:48] & 0x88 | (point >> 8) * 0x11
    return blocks.reshape(data.shape)


def normal(seed: int, rows: int = 102) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 512)).astype(np.float32)


def kinds(name: str, weights: int) -> dict[str, np.ndarray]:
    """Weights of each kind, (…, 512): everyday ones, and those where rounding and scales come to their ends."""
    size, top, rng = GGML_QUANT_SIZES[Kind[name]][0], TOPS[name], np.random.default_rng(list(name.encode()))
    blocks = weights // size
    shape, place, steps = (blocks, size), np.arange(blocks), 4 if name == "MXFP4" else 2
    bell = rng.standard_normal(shape)
    relative = bell / np.abs(bell).max(axis=1, keepdims=True)
    ties = rng.integers(-int(steps * top), int(steps * top), shape, endpoint=True) / steps
    ties[:, 0], ties[:, 1] = -top, top if name in AFFINE else 0
    outlier = bell.copy()
    outlier[place, rng.integers(0, size, blocks)] = rng.choice([-1e4, 1e4], blocks)
    large = top * rng.uniform(3e4, 65500, (blocks, 1))
    largest = relative * large
    if name in AFFINE:  # the minimum is a float16 as well: here 0, there the largest
        low = bell.min(axis=1, keepdims=True)
        largest = (bell - low) / np.ptp(bell, axis=1, keepdims=True) * 2 * large - 65500.0 * (place[:, None] % 2)
    found = {
        "normal": bell,
        "laplace": rng.laplace(size=shape) * 0.02,
        "t5": rng.standard_t(5, shape) * 3,
        "ties": np.ldexp(ties, rng.integers(-9, 5, (blocks, 1))),
        "zeros": np.where(place[:, None] % 2 == 0, 0, bell),
        "outlier": outlier,
        "subnormal scale": relative * top * 2.0**-24 * rng.uniform(0.2, 1000, (blocks, 1)),
        "largest scale": largest,
    }
    return {kind: w.astype(np.float32).reshape(-1, 512) for kind, w in found.items()}
