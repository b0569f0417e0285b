"""What the page must know of theory: formats and the laws of their scales, families, what it cannot do live, points."""

import json
from pathlib import Path
from typing import Any

from quantsim import quantizer, theory
from quantsim.lab.report.playground.facts import element_facts, scale_format
from quantsim.populations import parse
from quantsim.theory.scheme import AbsmaxScale, PowerOfTwoScale, Scheme, TwoLevelScale

#: Shape of the arrays of the study ``prediction``: a channel has 1024 weights, a tensor 32768.
SHAPE = (32, 1024)
FAMILIES = ("normal", "laplace", "uniform", "t12", "t5", "t3")

_CUTS = ("tensor", "channel", "block32")
GROUPS = {
    "integers": tuple(f"int{bits}:{cut}" for bits in range(8, 1, -1) for cut in _CUTS),
    "stored": (
        *(f"int8:block32:absmax:{scale}" for scale in ("f16", "bf16", "e4m3")),
        "int4:block32:absmax:f16",
        "e2m1:block16:absmax:e4m3",
        "e2m1:block8:absmax:ue4m3",
        "int4:block16:absmax:ue5m3",
        "nf4:block64:absmax:e5m2",
    ),
    "floats": (
        *("e5m2:tensor", "e4m3:tensor", "e4m3:channel", "e4m3:block32", "e3m4:block32", "e2m1:block32"),
        "e1m2:block16",
    ),
    "codebooks": ("nf4:block64", "af4:block64", "fp4:block64", "nf4:channel", "nf4:tensor"),
    "casts": ("bf16", "f16", "tf32", "e5m2", "e4m3", "e3m4", "e3m2", "e2m3", "e2m1"),
    "mx": (
        *("mxfp4", "mxfp4:ceil", "mxfp4:even", "mxfp4:rceil", "mxfp6_e2m3", "mxfp6_e3m2"),
        *("mxfp8_e4m3", "mxfp8_e4m3:rceil", "mxfp8_e5m2", "mxint8", "mxint4"),
        *("mxfp4:block16", "int4:block32:absmax:e8m0", "e1m2:block32:absmax:e8m0"),
    ),
    "nvfp4": ("nvfp4", "nvfp4:single", "nvint4", "e2m1:block8:absmax:ue4m3+f32", "int4:block16:absmax:ue4m3+f32"),
    "gguf": ("q8_0", "q5_0", "q4_0"),
}
#: Scales that follow from both extremes: the page has their predictions from here, for families without outliers.
TABULATED = ("int8:block32:minmax", "int4:block32:minmax", "q4_1")


def theory_facts(folder: Path | None) -> dict[str, Any]:
    """Facts of ``34_theory.js``; ``folder`` holds the rows of the studies, of which those of ``prediction`` are shown.

    >>> facts = theory_facts(None)
    >>> facts["formats"][0]["spec"], facts["formats"][0]["size"], facts["scales"]["e4m3"]["high"]
    ('int8:tensor', 32768, 448.0)
    """
    live = [_live(group, spec) for group, specs in GROUPS.items() for spec in specs]
    stored = {f["law"]["stored"] for f in live} - {None}
    return {
        "families": [{"name": name, "df": getattr(parse(name), "df", None)} for name in FAMILIES],
        "formats": live + [_tabulated(spec) for spec in TABULATED],
        "scales": {name: element_facts(scale_format(name)) for name in sorted(stored)},
        "points": [] if folder is None else study_points(folder),
    }


def _live(group: str, spec: str) -> dict[str, Any]:
    """Facts of a format that the page follows itself."""
    q = quantizer.parse(spec)
    scheme = q.scheme(SHAPE)
    (size, _), *shorter = scheme.sizes or ((1, 1.0),)
    assert not shorter
    facts = {"spec": spec, "group": group, "bits": q.bits_per_weight(SHAPE), "size": size}
    return facts | {"element": element_facts(scheme.format), "law": _law(scheme)}


def _law(scheme: Scheme) -> dict[str, Any]:
    """The law of a scale, as numbers."""
    law = scheme.scale
    if law is None:
        return {"kind": "cast", "stored": None}
    if isinstance(law, PowerOfTwoScale):
        return {"kind": "power", "edge": law.edge, "shift": law.shift, "stored": None}
    assert isinstance(law, AbsmaxScale | TwoLevelScale)
    facts = {"reach": law.reach, "stored": None if law.stored is None else law.stored.name}
    if isinstance(law, TwoLevelScale):
        return {"kind": "two_level", "total": law.total} | facts
    assert not law.positive_first
    assert not law.gguf_e4m3
    return {"kind": "absmax", "signed": law.signed, "codes_exact": law.codes_exact} | facts


def _tabulated(spec: str) -> dict[str, Any]:
    """A format with the relative mean squared errors that theory predicts of every family."""
    q = quantizer.parse(spec)
    table = {name: theory.weight_rel_mse(parse(name), q, SHAPE) for name in FAMILIES}
    return {"spec": spec, "group": "tabulated", "bits": q.bits_per_weight(SHAPE), "rel_mse": table}


def study_points(folder: Path) -> list[dict[str, Any]]:
    """Measured errors of the study ``prediction`` whose population the page can show: a family, maybe with outliers."""
    file = folder / "prediction.jsonl"
    if not file.is_file():
        return []
    shown = {spec for specs in GROUPS.values() for spec in specs} | set(TABULATED)
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [_point(row) for row in rows if row["spec"] in shown and _population(row["population"])]


def _point(row: dict[str, Any]) -> dict[str, Any]:
    known = _population(row["population"])
    assert known is not None
    return {"spec": row["spec"], **known, "rel_mse": row["mse"], "se": row["mse_se"]}


def _population(name: str) -> dict[str, Any] | None:
    """Family, rate and magnitude of a population that the sliders can reach."""
    family, _, outliers = name.partition("+")
    if family not in FAMILIES:
        return None
    if not outliers:
        return {"family": family, "rate": 0.0, "magnitude": 1.0}
    law = getattr(parse(name), "outliers")  # noqa: B009 - only populations with outliers have some
    if (law.layout, law.sign, law.values) != ("element", "random", "exact") or law.magnitude is None:
        return None
    return {"family": family, "rate": float(law.rate), "magnitude": float(law.magnitude)}
