"""Chromium for the tests of the report: where it is, how it starts, what a page costs.

``python -m tests.browser`` says on one line whether there is one; ``make test`` ends with that line.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Names another Chromium; makes the tests fail, not skip, where there is none.
NAMED, REQUIRED = "QUANTSIM_CHROMIUM", "QUANTSIM_REQUIRE_BROWSER"
HOW = f"install Chromium (Debian: apt-get install chromium), or name one with {NAMED}"
ALONE = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """The path of a Chromium, None if there is none."""
    return os.environ.get(NAMED) or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def started() -> Iterator[Any]:
    """A headless Chromium; a test that asks for one is skipped where there is none, unless it is required."""
    path = chromium()
    if path is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is no browser: {HOW}")
        pytest.skip(f"no browser: {HOW}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ALONE), headless=True)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, **context: Any) -> Iterator[Any]:
    """A page in a context of its own; no message on its console, no error and no request elsewhere until it closes."""
    seen: list[str] = []
    with browser.new_context(**context) as made:
        page = made.new_page()
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("request", lambda request: seen.extend(_elsewhere(request.url, url)))
        page.goto(url)
        yield page
    assert not seen


def _elsewhere(requested: str, url: str) -> list[str]:
    """A request for anything but the page itself and what its script makes."""
    own = requested.split("#")[0] == url.split("#")[0] or requested.startswith(("blob:", "data:"))
    return [] if own else [f"request: {requested}"]


def private_bytes(browser: Any) -> int:
    """Memory that the largest renderer process of a browser shares with no other process."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return max(_private(p["id"]) for p in processes if p["type"] == "renderer")


def _private(process: int) -> int:
    fields = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines())
    return sum(1024 * int(f[1]) for f in fields if f[0] in ("Private_Clean:", "Private_Dirty:"))


if __name__ == "__main__":
    left_out = "" if chromium() else f", without the tests in a browser: {HOW}"
    print(f"== test: all stages passed{left_out}")
