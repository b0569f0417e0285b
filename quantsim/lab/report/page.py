"""A page from its template: escaped, with one style and one script whose hashes its policy names."""

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from quantsim.rows import plain

_HERE = Path(__file__).parent
_BLANK = re.compile(r"\n\s*\n+")


@cache
def environment() -> jinja2.Environment:
    """Templates beside this file; what they fill in is escaped, and what is not there is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_HERE / "templates", _HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["json"] = json_in_html
    found.filters["fill"] = fill
    found.filters["marked"] = marked
    found.tests["endingwith"] = str.endswith
    return found


def render(template: str, previews: str = "", **given: Any) -> str:
    """The page of a template, under a policy that lets nothing in but its own style and script.

    Args:
        template: file beside this one.
        previews: a second style, for where scripts are off.
        given: what the template fills in.
    """
    style, script = source(".css"), source(".js")
    text = (
        environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=policy(script, style, previews),
            previews=Markup(previews),
            **given,
        )
    )
    return _BLANK.sub("\n", text)


@cache
def source(ending: str) -> str:
    """All styles or all scripts, one after another: this folder's, then those of the interactive part.

    Raises:
        ValueError: for one that would end the element that holds it.
    """
    files = sorted((_HERE / "templates").glob(f"*{ending}")) + sorted((_HERE / "playground").glob(f"*{ending}"))
    text = "\n".join(file.read_text(encoding="utf-8").strip() for file in files)
    if re.search(r"</(style|script)|<!--", text, re.IGNORECASE):
        raise ValueError(f"a {ending} file of the report holds the end of its own element, or a comment of HTML")
    return _BLANK.sub("\n", f"\n{text}\n")


def policy(script: str, *styles: str) -> str:
    """A content-security policy: nothing but this script, these styles, and pictures that are in the file itself."""
    allowed = " ".join(f"'{digest(style)}'" for style in styles if style)
    return (
        f"default-src 'none'; script-src '{digest(script)}'; style-src {allowed}; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """Hash of an inline element as policies write it.

    >>> digest("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_in_html(value: Any) -> Markup:
    r"""JSON that can stand in an element of HTML: no character of it can end the element or begin another.

    >>> print(json_in_html("</script>&"))
    "\u003c/script\u003e\u0026"
    """
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def fill(text: str, **given: Any) -> str:
    """A string of the table with its braces filled in; what is filled in is escaped with the rest.

    >>> fill("{rows} rows", rows=3)
    '3 rows'
    """
    return text.format(**given)


def marked(text: str) -> Markup:
    """A statement of the ledger with what it stresses and what it quotes as code.

    >>> print(marked("softmax is *extremely* <sensitive>, `X @ W`"))
    softmax is <em>extremely</em> &lt;sensitive&gt;, <code>X @ W</code>
    """
    quoted = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"(?<!\w)\*([^*<]+)\*(?!\w)", r"<em>\1</em>", quoted, flags=re.ASCII))
