"""The pages of ``docs/`` that are made of topics: the first words of a page stand in ``heads/``, the rest is made."""

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files

from quantsim.lab.handbook import findings, formats, laws
from quantsim.lab.handbook.topic import Topic

_MADE = "<!-- made by `quantsim explain --pages docs`: change what it is made of, in quantsim/lab/handbook -->"


def pages() -> dict[str, str]:
    """Text of every generated page by the name of its file.

    >>> sorted(pages())[:2]
    ['conventions.md', 'formats.md']
    """
    return {f"{name}.md": "\n".join([_MADE, "", head(name), *body()]) for name, body in _PAGES.items()}


def head(name: str) -> str:
    """What a page says before its tables."""
    return files("quantsim.lab.handbook").joinpath("heads", f"{name}.md").read_text(encoding="utf-8")


def table(columns: tuple[str, ...], topics: Iterable[Topic]) -> Iterator[str]:
    """Rows of name, what, and the facts that are columns; a fact without text is an empty cell."""
    yield f"| {' | '.join(('name', 'what', *columns))} |"
    yield "|---" * (len(columns) + 2) + "|"
    for topic in topics:
        cells = (_cell(label, topic.fact(label)) for label in columns)
        yield f"| {' | '.join((f'`{topic.name}`', _escaped(topic.what), *cells))} |"
    yield ""


def _cell(label: str, text: str) -> str:
    return f"`{_escaped(text)}`" if label == "formula" and text else _escaped(text)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _formats() -> Iterator[str]:
    yield "## Elements\n"
    yield from table(("bits", "largest", "levels", "formula", "used by", "source"), formats.elements())
    yield "## Block formats\n"
    columns = ("bits a weight", "block", "scale", "formula", "GGUF type", "imatrix", "theory", "used by", "source")
    yield from table(columns, formats.blocks())
    yield "## GGUF types that are read, not written\n"
    yield from table(("bits a weight", "block", "formula", "used by", "source"), formats.unpacked_only())


def _metrics() -> Iterator[str]:
    yield from table(("formula", "unit", "by", "source"), laws.metrics())


def _conventions() -> Iterator[str]:
    yield from table(("where", "source"), laws.conventions())
    yield "## Terms\n"
    yield from table((), laws.terms())
    yield head("exactness")


def _sections(topics: Iterable[Topic]) -> Iterator[str]:
    for topic in topics:
        yield f"### `{topic.fact('call') or topic.name}`\n\n{topic.what}\n"
        if topic.text:
            yield f"{topic.text}\n"
        attributes = [(label, said) for label, said in topic.facts if label not in ("call", "source")]
        yield from (f"- `{label}`: {said}" for label, said in attributes)
        if attributes:
            yield ""
        if source := topic.fact("source"):
            yield f"*Source: {source}*\n"


def _theory() -> Iterator[str]:
    made = {topic.name: topic for topic in laws.predictions()}
    for heading, names in laws.THEORY.items():
        yield f"## {heading}\n"
        yield from _sections(made[name] for name in names)


def _populations() -> Iterator[str]:
    yield "## Weights\n"
    yield from _sections(laws.weights())
    yield "## Activations: laws and steps\n"
    yield from _sections(laws.activations())


def _mitigations() -> Iterator[str]:
    yield from _sections(laws.remedies())


def _studies() -> Iterator[str]:
    for topic in findings.studies():
        settled = topic.fact("settles")
        yield f"## `{topic.name}`\n\n*{topic.what}*\n\n{topic.fact('finds')}\n"
        settles = f"Settles {settled}. " if settled else ""
        yield f"{settles}[Study](../studies/{topic.name}.py) · `{topic.fact('run')}`\n"
        yield f"![Figure of {topic.name}](../paper_figures/{topic.name}.png)\n"


_PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "conventions": _conventions,
    "formats": _formats,
    "metrics": _metrics,
    "mitigations": _mitigations,
    "populations": _populations,
    "studies": _studies,
    "theory": _theory,
}
