"""A topic: what there is to say about one name, as facts and paragraphs, for a terminal and for a page."""

import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

#: Label and text of a fact.
Fact: TypeAlias = tuple[str, str]

_SECTION = re.compile(r"^(Args|Raises|Returns|Attributes|Yields):$")


@dataclass(frozen=True)
class Topic:
    """What there is to say about one name.

    Attributes:
        name: what a person asks for.
        kind: "format", "metric", "study", ….
        what: one sentence.
        facts: label and text, in order; a formula and a source are among them.
        text: paragraphs behind the facts.
    """

    name: str
    kind: str
    what: str
    facts: tuple[Fact, ...] = ()
    text: str = ""

    def fact(self, label: str) -> str:
        """The text of a fact, empty if there is none of that label."""
        return dict(self.facts).get(label, "")


@cache
def words(file: str) -> dict[str, Any]:
    """A table of words beside this module."""
    return tomllib.loads(files("quantsim.lab.handbook").joinpath(file).read_text(encoding="utf-8"))


def matching(name: str, entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The first entry one of whose names, which may hold a star, is the name.

    Raises:
        LookupError: if none is.

    >>> matching("int8", [{"names": ["nf4"]}, {"names": ["int*"], "what": "integers"}])["what"]
    'integers'
    """
    for entry in entries:
        if any(fnmatchcase(name, pattern) for pattern in entry["names"]):
            return entry
    raise LookupError(f"nothing is said of {name}")


def of_docstring(name: str, kind: str, thing: Any) -> Topic:
    """A topic from a docstring: its first sentence, its paragraphs up to the arguments, and its source.

    >>> from quantsim.theory import panter_dite
    >>> of_docstring("panter_dite", "theory", panter_dite).fact("source")
    'Panter and Dite, Proc. IRE 39 (1951).'
    """
    doc = inspect.getdoc(thing) or ""
    first, *paragraphs = _paragraphs(doc)
    source = " ".join(found for p in paragraphs if (found := _source(p)))
    text = "\n\n".join(cut for p in paragraphs if (cut := _without_source(p)))
    call = f"{name}{signature(thing)}"
    facts = (("call", call), *_attributes(doc), *((("source", source),) if source else ()))
    return Topic(name, kind, first, facts, text)


def _attributes(doc: str) -> Iterator[Fact]:
    """What is said of each attribute."""
    for block in doc.split("\n\n"):
        if block.startswith("Attributes:"):
            for entry in re.split(r"\n {4}(?=\w)", block)[1:]:
                name, _, text = entry.partition(": ")
                yield name, plain(text)


def _paragraphs(doc: str) -> list[str]:
    """Paragraphs without examples and without what is said of arguments."""
    kept: list[str] = []
    for block in doc.split("\n\n"):
        head = block.strip("\n").split("\n")[0]
        if not _SECTION.match(head) and not head.lstrip().startswith(">>>") and not block.startswith("    "):
            kept.append(block.strip("\n"))
    return [plain(p) for p in kept]


def plain(paragraph: str) -> str:
    """A paragraph as one line, its double backquotes single."""
    return " ".join(paragraph.split()).replace("``", "`")


def _source(paragraph: str) -> str:
    found = re.search(r"Sources?: (.*)", paragraph)
    return found[1] if found else ""


def _without_source(paragraph: str) -> str:
    return re.sub(r"\s*Sources?: .*", "", paragraph)


def signature(thing: Any) -> str:
    """Names of the parameters with their defaults, without types.

    >>> signature(matching)
    '(name, entries)'
    """
    parameters = inspect.signature(inspect.unwrap(thing)).parameters.values()
    return str(inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters]))


def lines(topic: Topic, width: int) -> Iterator[str]:
    """A topic for a terminal of so many columns.

    >>> list(lines(Topic("mse", "metric", "mean squared error", (("formula", "mean e²"),)), 40))
    ['mse (metric): mean squared error', '  formula  mean e²']
    """
    yield from _wrapped(f"{topic.name} ({topic.kind}): {topic.what}", width, "", "  ")
    labels = max((len(label) for label, text in topic.facts if text), default=0)
    for label, text in topic.facts:
        head = f"  {label:<{labels}}  "
        yield from _wrapped(text, width, head, " " * len(head))
    for paragraph in filter(None, topic.text.split("\n\n")):
        yield ""
        yield from _wrapped(paragraph, width, "  ", "  ")


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, **options)
