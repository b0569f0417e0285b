"""The command that explains a name: what it is, its formula, its source; and writes the pages that say the same."""

import textwrap
from dataclasses import asdict
from pathlib import Path

import tyro
from rich.console import Console

from quantsim.cli import terminal
from quantsim.cli.terminal import Flag
from quantsim.rows import replace_text

_WIDEST = 110


def explain(topic: tyro.conf.Positional[str] = "", json: Flag = False, pages: Path | None = None) -> None:
    """What a name means: a format, metric, convention, population, mitigation, theory, study or claim; with its source.

    Without a topic, the list of all. Whole specs are explained, too: int4:block32:mse, t5+outliers(rate=0.1,value=9).

    Args:
        topic: for example q4_k, sqnr_db, A33, smoothquant, outliers.
        json: print JSON.
        pages: write the pages of the handbook into this folder instead.
    """
    from quantsim.lab import handbook

    if pages is not None:
        pages.mkdir(parents=True, exist_ok=True)
        for name, text in handbook.pages().items():
            replace_text(pages / name, text)
            terminal.say(f"wrote {pages / name}")
        return
    if topic:
        found = handbook.explained(topic)
        if json:
            print(terminal.json_text([asdict(one) for one in found]))
        else:
            print("\n\n".join("\n".join(handbook.lines(one, _width())) for one in found))
        return
    names = {heading: [one.name for one in made] for heading, made in handbook.topics().items()}
    print(terminal.json_text(names) if json else "\n".join(_list(names)))


def _list(names: dict[str, list[str]]) -> list[str]:
    options = {"width": _width(), "initial_indent": "  ", "subsequent_indent": "  "}
    found = []
    for heading, those in names.items():
        found += [f"{heading}:", textwrap.fill(", ".join(those), **options, break_on_hyphens=False)]
    return [*found, "", "quantsim explain NAME says what one is, with its formula and its source"]


def _width() -> int:
    return min(Console().width, _WIDEST)
