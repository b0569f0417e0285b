"""Spec strings of populations: ``t5(std=0.02)``, ``gennorm(beta=1.5)``, ``laplace+outliers(rate=0.01,value=2)``."""

import re
from difflib import get_close_matches

from quantsim.populations.families import Laplace, Normal, Uniform
from quantsim.populations.generalized import GeneralizedNormal
from quantsim.populations.mixture import Mixture
from quantsim.populations.outliers import Outliers
from quantsim.populations.population import Contaminated, Population
from quantsim.populations.student import StudentT

_PLAIN = {"normal": Normal, "laplace": Laplace, "uniform": Uniform, "gennorm": GeneralizedNormal}
_WORDS = ("layout", "sign", "values")
_KNOWN = (*_PLAIN, "t5", "t3", "mixture", "outliers")


def parse(text: str) -> Population:
    """Population of a spec string; ``str`` of it parses back.

    Raises:
        TypeError: if it is no text.
        ValueError: if it is no population; the message says what was probably meant.

    >>> pop = parse("t5+outliers(rate=0.01,magnitude=100)")
    >>> print(pop, pop.bulk)
    t5+outliers(rate=0.01,magnitude=100) t5
    >>> print(parse("mixture(0.9*normal+0.1*normal(std=3))"))
    mixture(0.9*normal+0.1*normal(std=3))
    """
    if not isinstance(text, str):
        raise TypeError(f"the spec of a population is text, got {text!r}")
    return _population(text.replace(" ", ""), text)


def _population(part: str, text: str) -> Population:
    head, *rest = _split(part, "+")
    pop = _bulk(head, text)
    for part in rest:
        name, args = _call(part, text)
        if name != "outliers":
            raise _unknown(name, text)
        pop = Contaminated(pop, _make(Outliers, args, text))
    return pop


def _bulk(part: str, text: str) -> Population:
    name, args = _call(part, text)
    if name == "mixture":
        weights, components = zip(*(_term(term, text) for term in _terms(part[len("mixture(") : -1])), strict=True)
        return Mixture(weights, components)
    if name == "empirical":
        raise ValueError(f"population {text!r} is made from values, not from a spec: use Empirical(values)")
    if m := re.fullmatch(r"t(\d+(?:\.\d+)?)", name):
        return _make(StudentT, {"df": float(m[1]), **args}, text)
    if name not in _PLAIN:
        raise _unknown(name, text)
    return _make(_PLAIN[name], args, text)


def _terms(text: str) -> list[str]:
    """Components of a mixture; outliers belong to the one before them."""
    terms: list[str] = []
    for term in _split(text, "+"):
        terms[-1:] = [f"{terms[-1]}+{term}"] if terms and term.startswith("outliers") else [*terms[-1:], term]
    return terms


def _term(term: str, text: str) -> tuple[float | int, Population]:
    weight, times, component = term.partition("*")
    if not times:
        raise ValueError(f"write {term!r} in population {text!r} as probability*population, for example 0.9*normal")
    return _number(weight, text), _population(component, text)


def _split(text: str, separator: str) -> list[str]:
    """Split outside parentheses; a sign of an exponent such as 1e+3 does not separate."""
    parts, depth = [""], 0
    for at, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        exponent = re.search(r"\d[eE]$", text[:at]) is not None
        if c == separator and depth == 0 and not exponent:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _call(part: str, text: str) -> tuple[str, dict[str, float | int | str]]:
    m = re.fullmatch(r"([a-z]+[\d.]*)(?:\((.*)\))?", part)
    if not m:
        raise ValueError(
            f"cannot read {part!r} in population {text!r}; write for example normal+outliers(rate=0.01,magnitude=100)"
        )
    args: dict[str, float | int | str] = {}
    for pair in filter(None, (m[2] or "").split(",")) if m[1] not in ("mixture", "empirical") else ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"write {pair!r} in population {text!r} as name=value")
        if name in args:
            raise ValueError(f"population {text!r} gives {name} twice")
        args[name] = value if name in _WORDS else _number(value, text)
    return m[1], args


def _number(value: str, text: str) -> float | int:
    try:
        return int(value) if re.fullmatch(r"\d+", value) else float(value)
    except ValueError:
        raise ValueError(f"{value!r} in population {text!r} is not a number") from None


def _make(cls: type, args: dict, text: str):
    try:
        return cls(**args)
    except TypeError:
        known, got = ", ".join(cls.__dataclass_fields__), ", ".join(args) or "nothing"
        raise ValueError(f"population {text!r}: {cls.__name__} takes {known}, got {got}") from None


def _unknown(name: str, text: str) -> ValueError:
    near = get_close_matches(name, _KNOWN, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"unknown population {name!r} in {text!r}{hint}; known are normal, laplace, uniform, tN (N > 2), "
        "gennorm(beta=…), mixture(), each with +outliers()"
    )
