"""All topics by name, and what a person may have meant by another."""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache

from quantsim import formats as elements_of
from quantsim.lab.handbook import findings, formats, laws
from quantsim.lab.handbook.topic import Topic

#: Every kind of topic under its heading, in the order of the list.
KINDS: dict[str, Callable[[], Iterable[Topic]]] = {
    "terms": laws.terms,
    "formats": formats.elements,
    "block formats": formats.blocks,
    "GGUF types that are only read": formats.unpacked_only,
    "metrics": laws.metrics,
    "conventions": laws.conventions,
    "populations": laws.weights,
    "activations": laws.activations,
    "mitigations": laws.remedies,
    "theory": laws.predictions,
    "studies": findings.studies,
    "claims": findings.statements,
}

#: Other names in use.
ALIASES = {
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "fp16": "f16",
    "fp32": "f32",
    "fp8": "e4m3",
    "fp8_e4m3": "e4m3",
    "fp8_e5m2": "e5m2",
    "normalfloat": "nf4",
    "perplexity": "nll",
    "q4_k_m": "q4_k",
    "q5_k_m": "q5_k",
    "snr": "sqnr_db",
}


@cache
def topics() -> dict[str, tuple[Topic, ...]]:
    """Every topic under the heading of its kind.

    >>> "sqnr_db" in [topic.name for topic in topics()["metrics"]]
    True
    """
    return {heading: tuple(made()) for heading, made in KINDS.items()}


def explained(name: str) -> tuple[Topic, ...]:
    """The topics of a name, in any case; of a whole spec of a quantizer or of a population what follows from it.

    Raises:
        LookupError: for what is neither; the message says what was probably meant.

    >>> [topic.kind for topic in explained("smoothquant")]
    ['mitigation', 'study']
    """
    asked = ALIASES.get(name.strip().lower(), name.strip())
    found = [topic for topic in _all() if topic.name.lower() == asked.lower()]
    found += () if found else _derived(asked)
    if not found:
        names = sorted({topic.name.lower(): topic.name for topic in _all()}.items())
        near = get_close_matches(asked.lower(), [lower for lower, _ in names], 3, 0.6)
        hint = f"did you mean {' or '.join(dict(names)[n] for n in near)}? " if near else ""
        raise LookupError(f"nothing is known of {name!r}; {hint}`quantsim explain` lists all topics")
    return tuple(found)


def _all() -> Iterator[Topic]:
    for made in topics().values():
        yield from made


def _derived(name: str) -> Iterator[Topic]:
    """What can be said of a spec that is no topic of its own."""
    try:
        yield formats.element(elements_of.parse(name.lower()))
        return
    except LookupError:
        pass
    for read in (formats.quantizer, laws.population):
        try:
            yield read(name)
            return
        except ValueError:
            continue
