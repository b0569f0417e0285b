"""A minimal page around the playground."""

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from quantsim.lab.report import playground
from quantsim.lab.report.playground.data import data
from quantsim.lab.report.strings import words

LIGHT = "--bg: #fff; --fg: #1d232b; --muted: #55606e; --line: #c9d1da; --accent: #0b5cad; --card: #f5f7fa;"
DARK = "--bg: #12161b; --fg: #e6eaf0; --muted: #a3adba; --line: #3a434e; --accent: #7db8f5; --card: #1b2129;"
STYLE = f"""
:root {{ {LIGHT} --bad: #a33a00; --good: #0b6b4f; color-scheme: light; }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} --bad: #f0a07a; --good: #6fd3b1; color-scheme: dark; }} }}
body {{ margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--bg); color: var(--fg);
font: 1rem/1.5 system-ui, sans-serif; }}
"""


@cache
def known() -> dict[str, Any]:
    """What the page is given."""
    return data(Path(__file__).parent.parent / "paper_figures")


def as_json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def hashed(text: str) -> str:
    """Source of a policy that lets this text run."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@cache
def page(language: str = "en") -> str:
    """The fragment in a page of its own, under the policy of the report."""
    strings = words(language)
    markup = Environment(autoescape=True, undefined=StrictUndefined).from_string(part("markup.html.j2"))
    names = sorted(f.name for f in files(playground).iterdir() if f.name.endswith(".js"))
    script = "\n".join(part(name) for name in names)
    style = STYLE + part("playground.css")
    policy = f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; img-src data:"
    return f"""<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>playground</title>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body><main>
<h1>quantsim</h1>{markup.render(w=strings, playground_data=known())}
<script type="application/json" id="strings">{as_json(strings)}</script>
<script type="application/json" id="playground-data">{as_json(known())}</script>
</main><script>{script}</script></body></html>"""


def part(name: str) -> str:
    """Text of a file of the playground."""
    return files(playground).joinpath(name).read_text(encoding="utf-8")
