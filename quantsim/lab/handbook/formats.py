"""Topics of formats: facts from the formats themselves, words from ``formats.toml``."""

from collections.abc import Iterator
from typing import Any

from quantsim import formats, theory
from quantsim.calibration import MSE, RMS, Absmax, FourOverSix, MinMax, Percentile, Search
from quantsim.formats import Codebook, Float, Format, Integer
from quantsim.lab.handbook.topic import Fact, Topic, matching, words
from quantsim.populations import Normal
from quantsim.quantizer import Quantizer, parse
from quantsim.quantizer.blockformats import SPECS, BlockFormat
from quantsim.quantizer.blockformats.gguf import TYPES, layout
from quantsim.quantizer.blockformats.microscaling import Microscaling
from quantsim.quantizer.blockformats.unpacking import LAYOUTS
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.rotated import Rotated

#: Rows and columns of the matrix that bits are counted on.
MATRIX = (4096, 4096)

_CAST = "ŵ = the level next to w"

#: The convention that says what a calibration does.
_RULES = {
    **{Absmax: "absmax", MinMax: "minmax", Percentile: "percentile", MSE: "search", RMS: "rms"},
    **{Search: "neighbours", FourOverSix: "fouroversix"},
}

#: Block formats whose colon is a part of the name.
_NO_OPTION = {"nvfp4:single", "nvint4:single", "mxfp4:gguf", "nvfp4:gguf"}


def elements() -> Iterator[Topic]:
    """Every named element format."""
    yield from (element(fmt) for fmt in formats.FORMATS.values())


def element(fmt: Format) -> Topic:
    """An element format, also one that is no row of the table.

    >>> element(formats.parse("e4m3")).fact("largest")
    '448'
    """
    said = matching(fmt.name, words("formats.toml")["elements"])
    return Topic(fmt.name, _kind(fmt), said["what"], (*_element_facts(fmt), *_said(said)))


def _kind(fmt: Format) -> str:
    return {Integer: "integer", Float: "float", Codebook: "codebook"}[type(fmt)]


def _element_facts(fmt: Format) -> Iterator[Fact]:
    yield "bits", str(fmt.bits)
    if fmt.bits <= 8:
        levels = formats.levels(fmt)
        yield "levels", f"{len(levels)}, the smallest above zero {min(v for v in levels if v > 0):.4g}"
    yield "largest", f"{formats.largest(fmt):.8g}"
    if fmt.bits <= 4:
        yield "values", " ".join(f"{v:.4g}" for v in formats.levels(fmt))


def _said(said: dict[str, Any]) -> Iterator[Fact]:
    yield "formula", said["formula"]
    yield "used by", said["used"]
    yield "source", said["source"]


def blocks() -> Iterator[Topic]:
    """Every block format without options, those of GGUF under their names in specs."""
    for spec, q in SPECS.items():
        if ":" not in spec or spec in _NO_OPTION:
            said = matching(spec, words("formats.toml")["blocks"])
            yield Topic(spec, "block format", said["what"], (*_block_facts(q, said["scale"]), *_said(said)))


def _block_facts(q: AbstractQuantizer, scale: str) -> Iterator[Fact]:
    yield "bits a weight", bits(q)
    assert isinstance(q, BlockFormat | Microscaling)
    yield "block", f"{q.size} weights" + (f", {q.nbytes} bytes" if isinstance(q, BlockFormat) else "")
    yield "scale", scale
    if isinstance(q, BlockFormat):
        yield "GGUF type", next(name for name, other in TYPES.items() if other is q)
        yield "imatrix", _imatrix(q)
    yield "theory", predicted(q)


def _imatrix(q: BlockFormat) -> str:
    if q.needs_imatrix:
        return "needed to pack; in a spec all inputs are equally important"
    return "taken" if q.takes_imatrix else "not taken"


def bits(q: AbstractQuantizer) -> str:
    """True bits a weight of a matrix of 4096 × 4096."""
    return f"{q.bits_per_weight(MATRIX):.6g}"


def predicted(q: AbstractQuantizer) -> str:
    """What theory says of it on normal weights."""
    if not theory.has_weight_theory(Normal(), q, MATRIX):
        return "none: its scale is searched block by block"
    error = float(theory.weight_rel_mse(Normal(), q, MATRIX)) ** 0.5
    return f"predicts its error: {error:.4g} of normal weights (‖e‖/‖w‖)"


def unpacked_only() -> Iterator[Topic]:
    """GGUF types that are read and not written."""
    for name in LAYOUTS:
        if name not in TYPES:
            size, nbytes = layout(name)
            said = matching(name.lower(), words("formats.toml")["unpacked"])
            facts = (
                ("bits a weight", f"{8 * nbytes / size:.6g}"),
                ("block", f"{size} weights, {nbytes} bytes"),
                ("GGUF type", f"{name}, unpacked by qs.gguf.unpack and read from files, not packed"),
            )
            yield Topic(name.lower(), "GGUF type", said["what"], (*facts, *_said(said)))


def quantizer(spec: str) -> Topic:
    """A whole spec, such as int4:block32:mse, by what follows from it.

    Raises:
        ValueError: if it does not parse.

    >>> quantizer("int4:block32").fact("bits a weight")
    '5'
    """
    q = parse(spec)
    facts: list[Fact] = [("bits a weight", bits(q)), ("theory", predicted(q))]
    if isinstance(q, Rotated):
        facts += [("formula", words("conventions.toml")["rotated"]["what"]), ("around", str(q.inner))]
        return Topic(str(q), "quantizer", f"{q.inner} of weights in rotated coordinates", tuple(facts))
    if isinstance(q, Quantizer):
        said = matching(q.format.name, words("formats.toml")["elements"])
        rule = _RULES.get(type(q.calibration)) if q.granularity is not None else "saturation"
        facts.append(("elements", said["what"]))
        facts.append(("formula", "ŵ = s level, the level next to w / s" if q.granularity is not None else _CAST))
        facts += [("calibration", words("conventions.toml")[rule]["what"])] if rule else []
        facts += [("used by", said["used"]), ("source", said["source"])]
    else:
        facts.append(("see also", f"quantsim explain {spec.split(':')[0]}"))
    return Topic(
        str(q), "quantizer", "a spec: format, granularity, calibration, scale format, bounds, rounding", tuple(facts)
    )
