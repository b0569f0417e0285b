"""The table of mitigations, and specs such as ``smoothquant(alpha=0.5)`` that name one with its options."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any

import jax

from quantsim._types import PRNGKey
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse as parse_quantizer
from quantsim.quantizer.structure import parted, rebuild_quantizer

#: One shape of function: of a layer and a quantizer, with options by name, of which ``key`` is for random ones.
Function = Callable[..., Mitigated]

FUNCTIONS: dict[str, Function] = {}

#: Those that compute on the host: no program, so that they stand outside jit, vmap and grad.
ON_HOST: set[str] = set()

#: What each option of a mitigation may be: (lowest, highest) of a number, or the words to choose from.
LIMITS: dict[str, dict[str, tuple]] = {}


def mitigation(*static: str, **limits: tuple) -> Callable[[Function], Function]:
    """Register a function ``f(layer, q, *, key=None, option=…)`` under its name, and compile it.

    One program serves all quantizers that differ in numbers only. ``q`` may be a spec, too. Weights and inputs that are
    not finite or do not fit, and options beyond their limits, are refused where they are known.

    Args:
        static: options that a program must know to be compiled: sizes, numbers of steps. Others are traced.
        limits: of an option, (lowest, highest) of a number, or the words to choose from, which are static.
    """
    words = tuple(name for name, values in limits.items() if isinstance(values[0], str))

    def register(f: Function) -> Function:
        @partial(jax.jit, static_argnums=0, static_argnames=static + words)
        def program(structure: Any, numbers: Any, layer: Layer, **options: Any) -> Mitigated:
            return f(layer, rebuild_quantizer(structure, numbers), **options)

        @wraps(f)
        def compiled(layer: Layer, q: AbstractQuantizer | str, **options: Any) -> Mitigated:
            for option, value in options.items():
                require_within(f.__name__, option, value)
            return program(*parted(parse_quantizer(q)), fitting(layer), **options)

        FUNCTIONS[f.__name__], LIMITS[f.__name__] = compiled, limits
        return compiled

    return register


def on_host(**limits: tuple) -> Callable[[Function], Function]:
    """Register a function of the same shape that is not one program: what it does on the host, it does in float64.

    Its quantizer is parsed, its layer and options are checked; what it compiles, it compiles for the structure of the
    quantizer itself. Under a transformation, where nothing is known, it says so with a TypeError.

    Args:
        limits: of an option, (lowest, highest) of a number, or the words to choose from.
    """

    def register(f: Function) -> Function:
        @wraps(f)
        def checked(layer: Layer, q: AbstractQuantizer | str, **options: Any) -> Mitigated:
            for option, value in options.items():
                require_within(f.__name__, option, value)
            known = fitting(layer)
            if not all(hasattr(a, "sharding") for a in (known.weights, known.inputs)):  # what is traced lies nowhere
                raise TypeError(f"{f.__name__} computes on the host in float64, not inside jit, vmap or grad")
            return f(known, parse_quantizer(q), **options)

        FUNCTIONS[f.__name__], LIMITS[f.__name__] = checked, limits
        ON_HOST.add(f.__name__)
        return checked

    return register


def fitting(layer: Layer) -> Layer:
    """The layer in float32, if weights (out, in) and inputs (tokens, in) fit.

    Raises:
        ValueError: if they do not, for a layer without weights or tokens, and for a NaN or infinity.
    """
    w, x = as_weights(layer.weights), as_weights(layer.inputs, what="inputs")
    if w.ndim != 2 or x.ndim != 2 or w.shape[1] != x.shape[1] or not w.size * x.size:
        raise ValueError(f"weights (out, in) and inputs (tokens, in) do not fit, or are empty: {w.shape} and {x.shape}")
    return Layer(w, x)


def require_within(name: str, option: str, value: Any) -> None:
    """Refuse an option beyond its limits; what is traced is not known.

    Raises:
        ValueError: with the limits.
    """
    limits = LIMITS[name].get(option)
    if limits is None:
        return
    if isinstance(limits[0], str):
        if value not in limits:
            raise ValueError(f"{option} of {name} is one of {', '.join(limits)}, not {value!r}")
        return
    try:
        known = float(value)
    except jax.errors.ConcretizationTypeError:
        return
    if not limits[0] <= known <= limits[1]:
        raise ValueError(f"{option} of {name} lies within [{limits[0]}, {limits[1]}], got {known:g}")


@dataclass(frozen=True)
class Mitigation:
    """A mitigation with its options: a spec, static and hashable; ``str`` gives what ``parse`` reads.

    >>> parse("smoothquant(alpha=0.75)")
    Mitigation('smoothquant(alpha=0.75)')
    """

    name: str
    options: tuple[tuple[str, float | int | str], ...] = ()

    def apply(self, layer: Layer, q: AbstractQuantizer | str, *, key: PRNGKey | None = None) -> Mitigated:
        """The layer after the mitigation, its weights quantized by ``q``."""
        keyed = {"key": key} if "key" in defaults(self.name) else {}
        return FUNCTIONS[self.name](layer, q, **keyed, **dict(self.options))

    def __str__(self) -> str:
        """The spec: options that are not given are left out."""
        given = ",".join(f"{name}={value}" for name, value in self.options)
        return f"{self.name}({given})" if given else self.name

    def __repr__(self) -> str:
        """The class with the spec."""
        return f"Mitigation('{self}')"


def defaults(name: str) -> dict[str, Any]:
    """The options of a mitigation by name, with their defaults."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def parse(spec: str | Mitigation) -> Mitigation:
    """The mitigation that a spec names: ``NAME`` or ``NAME(option=value,…)``; a mitigation is given back as it is.

    Raises:
        ValueError: if there is no such mitigation or option, or a value is of another kind or beyond its limits; the
            message says what is.
    """
    if isinstance(spec, Mitigation):
        return spec
    read = re.fullmatch(r"(\w+)(?:\((.*)\))?", spec.strip())
    name = read[1] if read else spec
    if not read or name not in FUNCTIONS:
        near = get_close_matches(name, FUNCTIONS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown mitigation {spec!r}{hint}; known are {', '.join(sorted(FUNCTIONS))}")
    given = [pair.partition("=") for pair in filter(None, (read[2] or "").split(","))]
    return Mitigation(name, tuple((option.strip(), _value(name, option.strip(), value)) for option, _, value in given))


def _value(name: str, option: str, text: str) -> float | int | str:
    known = {k: v for k, v in defaults(name).items() if k != "key"}
    if option not in known:
        raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    try:
        value = type(known[option])(text.strip())
    except ValueError:
        raise ValueError(f"{option} of {name} is like {known[option]!r}, not {text.strip()!r}") from None
    require_within(name, option, value)
    return value
