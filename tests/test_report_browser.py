"""The report in a browser: from disk, without scripts, on a phone, in the dark, by keyboard, and for screen readers."""

import csv
import json
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe

from quantsim.lab.report import strings
from tests import browser as chromium
from tests.report_pages import FIGURES, path

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
# 0.3 s on two cores of an AMD EPYC, of which a second was asked; 1.1 s on a shared Xeon at 2 GHz, four times slower
MOST_SECONDS, MOST_BYTES = 4.0, 150e6
MOST_MILLISECONDS = 500  # of an interaction: generous, as two cores are shared; the aim is 50
LEDGER = json.loads((FIGURES / "claims.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as found:
        yield found


@pytest.fixture(scope="module")
def urls(browser):
    return {language: path(language).as_uri() for language in strings.LANGUAGES}


@pytest.fixture
def page(browser, urls):
    with chromium.opened(browser, urls["en"], viewport=DESKTOP) as found:
        yield found


def until(page, condition):
    """Wait for what a page says of itself; its policy lets no test poll inside it."""
    for _ in range(250):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never: {condition}")


def shown_rows(page):
    return page.locator("#ledger-rows tr:not([hidden])").count()


def test_it_opens_fast_and_small(browser, urls):
    """Seconds to the end of loading, of the best of three; private memory of the renderer that shows the page."""
    seconds = []
    for _ in range(3):
        with chromium.opened(browser, urls["en"], viewport=DESKTOP) as page:
            seconds.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            page.wait_for_timeout(500)
            if sys.platform == "linux":
                assert chromium.private_bytes(browser) < MOST_BYTES
    assert 0 < min(seconds) < MOST_SECONDS


def test_pictures_open_when_they_come_near_and_go_when_they_are_far(page):
    opened = "document.querySelectorAll('img[src]').length"
    page.locator("#study-width").scroll_into_view_if_needed()
    until(page, "document.querySelector('#study-width img').naturalWidth > 600")
    assert 0 < page.evaluate(opened) < 15
    page.evaluate("scrollTo(0, 0)")
    until(page, "!document.querySelector('#study-width img').src")


@pytest.mark.parametrize("name", ["activations", "formats", "width"])
def test_a_link_to_a_study_lands_on_it(page, name):
    page.locator(f"table.index a[href='#study-{name}']").click()
    page.wait_for_timeout(600)
    top = page.evaluate(f"document.getElementById('study-{name}').getBoundingClientRect().top")
    assert 0 <= top < 200


def test_filters_show_the_statements_that_match(page):
    assert shown_rows(page) == len(LEDGER) == 151
    page.select_option("#ledger-verdict", "refuted")
    refuted = [e for e in LEDGER if e["verdict"] == "refuted"]
    assert shown_rows(page) == len(refuted)
    page.select_option("#ledger-document", LEDGER[0]["document"])
    both = [e for e in refuted if e["document"] == LEDGER[0]["document"]]
    assert shown_rows(page) == len(both)
    assert page.locator("#ledger-count").inner_text() == f"{len(both)} of 151 statements"
    page.select_option("#ledger-study", both[0]["study"])
    assert shown_rows(page) == sum(e["study"] == both[0]["study"] for e in both)
    page.click("#ledger-reset")
    until(page, "document.querySelectorAll('#ledger-rows tr:not([hidden])').length === 151")
    page.fill("#ledger-text", "SOFTMAX shift")
    assert shown_rows(page) == sum("softmax" in t and "shift" in t for t in (str(e).lower() for e in LEDGER)) > 0
    page.fill("#ledger-text", "no such words")
    assert shown_rows(page) == 0
    assert page.locator("#ledger-none").is_visible()


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_text(encoding="utf-8")


def test_the_ledger_is_saved_as_it_is_stored(page):
    assert json.loads(saved(page, "#ledger-json")) == LEDGER
    found = list(csv.DictReader(saved(page, "#ledger-csv").splitlines()))
    assert [{k: v for k, v in row.items() if k not in ("value", "se")} for row in found] == [
        {k: v for k, v in ({"device": ""} | e).items() if k not in ("value", "se")} for e in LEDGER
    ]
    assert [(float(row["value"]), float(row["se"])) for row in found if row["value"]] == [
        (e["value"], e["se"]) for e in LEDGER if e["value"] is not None
    ]
    page.select_option("#ledger-verdict", "unsourced")
    assert json.loads(saved(page, "#ledger-json")) == [e for e in LEDGER if e["verdict"] == "unsourced"]


def test_all_rows_of_a_study_can_be_seen_and_saved(page):
    stored = [json.loads(line) for line in (FIGURES / "width.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = page.locator("#study-width details.rows")
    rows.locator("summary").click()
    rows.locator("[data-act=all]").click()
    rows.locator("output").wait_for()
    assert rows.locator("output").inner_text() == f"Rows 1 to 50 of {len(stored)}"
    rows.locator("[data-act=next]").click()
    assert rows.locator("tbody tr").count() == len(stored) - 50
    table = list(csv.DictReader(saved(page, "#study-width [data-act=csv]").splitlines()))
    assert [set(row) for row in table] == [{name for row in stored for name in row}] * len(stored)
    assert [row["kind"] for row in table] == [str(row.get("kind", "")) for row in stored]


def test_each_interaction_answers_soon(page):
    """From an event to the end of the layout that follows."""
    measured = page.evaluate(
        """() => {
          const taken = {};
          const time = (name, act) => {
            const start = performance.now(); act(); document.body.offsetHeight; taken[name] = performance.now() - start;
          };
          const input = (id, value) => () => {
            const field = document.getElementById(id); field.value = value;
            field.dispatchEvent(new Event("input", { bubbles: true }));
          };
          time("text", input("ledger-text", "softmax")); time("less text", input("ledger-text", ""));
          time("verdict", input("ledger-verdict", "holds")); time("all", input("ledger-verdict", ""));
          time("theme", () => document.getElementById("theme").click());
          return taken;
        }"""
    )
    assert max(measured.values()) < MOST_MILLISECONDS


def test_the_theme_follows_the_system_until_it_is_chosen(browser, urls):
    background = "getComputedStyle(document.body).backgroundColor"
    with chromium.opened(browser, urls["en"], color_scheme="dark") as page:
        dark = page.evaluate(background)
        page.click("#theme")
        light = page.evaluate(background)
        page.reload()
        assert page.evaluate(background) == light == "rgb(255, 255, 255)" != dark


@pytest.mark.parametrize("language", strings.LANGUAGES)
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_page_scrolls_sideways(browser, urls, language, size):
    with chromium.opened(browser, urls[language], viewport=size) as page:
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        page.evaluate("document.querySelectorAll('.study').forEach((s) => { s.style.contentVisibility = 'visible'; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_without_scripts_all_text_and_previews_are_there(browser, urls):
    with chromium.opened(browser, urls["en"], viewport=PHONE, java_script_enabled=False) as page:
        assert page.locator("#ledger-rows tr").count() == 151
        assert not page.locator("#ledger-filters").is_visible()
        assert not page.locator("#theme").is_visible()
        preview = page.locator("#preview-width")
        assert preview.is_visible()
        box = preview.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
        said = page.locator("#introduction noscript p")
        assert said.is_visible()
        assert said.inner_text() == strings.words("en")["report"]["without_scripts"]


def test_everything_is_reached_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.focus("#ledger-text")
    page.keyboard.type("softmax")
    assert 0 < shown_rows(page) < 151
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == [f"ledger-{n}" for n in ("verdict", "document", "study", "reset", "csv", "json")]
    page.focus("#ledger-reset")
    page.keyboard.press("Space")
    until(page, "document.querySelectorAll('#ledger-rows tr:not([hidden])').length === 151")
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.focus("#study-width summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", strings.LANGUAGES)
def test_axe_finds_no_violation(browser, urls, language, theme):
    with chromium.opened(browser, urls[language], viewport=DESKTOP, color_scheme=theme) as page:
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        assert not [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found.response["violations"]]
