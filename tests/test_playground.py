"""The interactive part of the report: its numbers are those of the package, to the bit, and a reader can use it."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantsim as qs
from tests import browser as chromium
from tests import playground_page
from tests.playground_matrices import SHAPE, choices, decoder, expected, matrices, spec_of

#: Quantizes matrices of bit patterns in the page, as nothing that a reader does; gives bit patterns back.
QUANTIZE = """([choice, bits]) => {
  const { quantizers: q, elements } = window.quantsim;
  const w = new Float32Array(Uint32Array.from(bits).buffer);
  const asBits = (values) => Array.from(new Uint32Array(Float32Array.from(values).buffer));
  const plan = window.quantsim.playground.matrix.model.catalogue.plan(...choice);
  const stored = q.quantize(plan, w, 16, 32);
  const values = q.dequantize(stored);
  const fields = {};
  for (const [name, found] of Object.entries(stored.fields)) {
    const element = stored.elements[name];
    const patterns = element.kind !== "float" || (plan.coding === "nvfp4" && name === "scale");
    fields[name] = patterns ? Array.from(found) : asBits(Array.from(found, (b) => elements.decode(b, element)));
  }
  const errors = asBits(q.errors(w, values));
  return { spec: plan.spec, codes: Array.from(stored.codes), values: asBits(values), errors, ...fields };
}"""


@pytest.fixture(scope="module")
def browser() -> Any:
    with chromium.started() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("playground") / "page.html"
    file.write_text(playground_page.page(), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def still(browser: Any, address: str) -> Any:
    """A page that nobody changes."""
    page = browser.new_page()
    page.goto(address)
    return page


def bits(values: np.ndarray) -> list[int]:
    return (values.view(np.uint32) if values.dtype == np.float32 else values.astype(np.int64)).tolist()


def some(choice: tuple[str, str, str]) -> bool:
    """A part of the choices that holds every format, every granularity and every scale format."""
    name, granularity, scale = choice
    few = name in ("int8:*", "int4:*:minmax", "e2m1:*", "nf4:*")
    return (granularity == "block16" and (scale in ("f32", "f16") or few)) or (scale == "f32" and few)


CHOICES = choices()
FEW = [c for c in CHOICES if ":*" not in c[0] or some(c)]
SLOW = [c for c in CHOICES if c not in FEW]


@pytest.mark.parametrize("choice", FEW, ids=lambda c: spec_of(*c))
def test_the_page_quantizes_as_the_package_does(still: Any, choice: tuple[str, str, str]) -> None:
    agrees(still, choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", SLOW, ids=lambda c: spec_of(*c))
def test_the_page_quantizes_as_the_package_does_in_every_combination(still: Any, choice: tuple[str, str, str]) -> None:
    agrees(still, choice)


def agrees(page: Any, choice: tuple[str, str, str]) -> None:
    """Codes, stored fields, weights and errors, as bit patterns, on every matrix; and the spec is canonical."""
    for name, w in matrices().items():
        found = page.evaluate(QUANTIZE, [choice, bits(w.ravel())])
        spec = found.pop("spec")
        assert spec == str(qs.parse(spec_of(*choice)))
        assert found == {k: bits(v) for k, v in expected(spec, w).items()}, (spec, name)


# --- flipped bits ----------------------------------------------------------------------------------------------------

#: The whole dequantized matrix for every bit of a cell that may flip, by part and bit.
FLIP = """([choice, bits, cell]) => {
  const { quantizers: q, bits: { bitsOf } } = window.quantsim;
  const w = new Float32Array(Uint32Array.from(bits).buffer);
  const plan = window.quantsim.playground.matrix.model.catalogue.plan(...choice);
  const found = [];
  const stored = q.quantize(plan, w, 16, 32);
  for (const [part, element] of Object.entries({ code: plan.codeElement, ...stored.elements })) {
    for (let bit = 0; bit < element.bits; bit++) {
      q.flip(stored, cell, part, bit);
      const values = Array.from(new Uint32Array(q.dequantize(stored).buffer));
      found.push({ part, bit, stored: bitsOf(stored, cell, part), values });
      q.flip(stored, cell, part, bit);
    }
  }
  return found;
}"""
FLIPPED = [
    *(("int8:*", "tensor", "f32"), ("int5:*", "block8", "e4m3"), ("int4:*:minmax", "block16", "f16")),
    *(("e4m3:*", "channel", "bf16"), ("nf4:*", "block16", "f32"), ("fp4:*", "block16", "f16")),
    *((name, "channel", "f32") for name in ("bf16", "f16", "e5m2", "e4m3", "e2m1", "mxfp4", "mxint8", "nvfp4")),
    *((name, "channel", "f32") for name in ("q8_0", "q4_0", "q5_1", "iq4_nl")),
]


@pytest.mark.parametrize("choice", FLIPPED, ids=lambda c: spec_of(*c))
def test_a_flipped_bit_means_what_it_means_in_the_package(still: Any, choice: tuple[str, str, str]) -> None:
    w, cell = matrices()["documents"], 77
    found = still.evaluate(FLIP, [choice, bits(w.ravel()), cell])
    assert len(found) >= 4
    decode = decoder(spec_of(*choice), w, cell)
    for case in found:
        values = np.array(case["values"], np.uint32).view(np.float32)
        known = np.asarray(decode(case["part"], case["stored"]), np.float32).ravel()
        same = (values.view(np.uint32) == known.view(np.uint32)) | (np.isnan(values) & np.isnan(known))
        assert same.all(), (case["part"], case["bit"])


# --- what a reader does ----------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    found = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.goto(address)
    yield found
    found.close()
    assert not complaints


def shown(page: Any, part: str) -> str:
    return page.locator(f"[data-part={part}]").inner_text()


def selected(page: Any) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_keys_move_the_cell_and_its_numbers_are_told(page: Any) -> None:
    page.locator("[role=gridcell][tabindex='0']").focus()
    assert selected(page) == "Row 1, column 1"
    steps = {"ArrowRight": "Row 1, column 2", "ArrowDown": "Row 2, column 2", "End": "Row 2, column 32"}
    steps |= {"ArrowRight ": "Row 2, column 32", "PageDown": "Row 6, column 32", "Control+Home": "Row 1, column 1"}
    for key, cell in steps.items():
        page.keyboard.press(key.strip())
        assert selected(page) == shown(page, "place") == cell
        assert page.locator("[role=gridcell][tabindex='0']").count() == 1
    assert "original \u22120.25092, code \u221232" in page.locator("[aria-live]").first.inner_text().replace(
        "-", "\u2212"
    )


def test_a_pointer_shows_a_cell_and_a_click_keeps_it(page: Any) -> None:
    box = page.locator("[data-part=map-error]").bounding_box()
    page.mouse.move(box["x"] + 2.5 * box["width"] / 32, box["y"] + 1.5 * box["height"] / 16)
    assert shown(page, "place") == "Row 2, column 3"
    page.mouse.move(2, 2)
    assert shown(page, "place") == "Row 1, column 1"
    page.mouse.click(box["x"] + 2.5 * box["width"] / 32, box["y"] + 1.5 * box["height"] / 16)
    page.mouse.move(2, 2)
    assert shown(page, "place") == "Row 2, column 3"


def test_controls_change_what_is_quantized(page: Any) -> None:
    assert shown(page, "total-spec") == "int8:tensor"
    page.select_option("[data-part=format]", "int4:*:minmax")
    page.select_option("[data-part=granularity]", "block8")
    page.select_option("[data-part=scale]", "f16")
    assert shown(page, "total-spec") == "int4:block8:minmax:f16"
    q = qs.parse("int4:block8:minmax:f16")
    stats = qs.error_stats(matrices()["documents"], q.roundtrip(matrices()["documents"]))
    assert shown(page, "total-sqnr_db") == f"{stats.sqnr_db:.1f} dB"
    assert float(shown(page, "total-bits_per_weight")) == q.bits_per_weight(SHAPE)
    page.select_option("[data-part=format]", "mxfp4")
    assert shown(page, "total-spec") == "mxfp4"
    assert page.locator("[data-part=granularity]").is_disabled()
    page.select_option("[data-part=source]", "normal")
    assert shown(page, "arithmetic").count("2^") == 3


def test_one_large_weight_takes_the_codes_of_those_that_share_its_scale(page: Any) -> None:
    before = shown(page, "sentence")
    page.locator("#pg-magnitude").focus()
    page.keyboard.press("End")
    assert "leaves the 511 others that share its scale 1 of 255 codes" in shown(page, "sentence")
    w = matrices()["documents"].copy()
    w[0, 0] = -1000.0
    figures = page.locator("[data-part=comparison] figure")
    for place, spec in enumerate(("int8:tensor", "int8:channel", "int8:block16")):
        numbers = figures.nth(place).locator("dd").all_inner_texts()
        w_hat = np.asarray(qs.parse(spec).roundtrip(w))
        stats = qs.error_stats(w.ravel()[1:], w_hat.ravel()[1:])
        assert numbers[0] == f"{stats.sqnr_db:.1f} dB".replace("-0.0", "0.0")
        codes = np.asarray(qs.parse(spec).quantize(w).codes).ravel()
        assert numbers[3:] == ["1 of 255", f"{len(set(codes[1:].tolist()))} of 255"]
    page.click("[data-part=put-back-weights]")
    assert shown(page, "sentence") == before


def test_a_bit_is_flipped_and_put_back(page: Any) -> None:
    lines = shown(page, "arithmetic")
    bit = page.locator("[data-part=code][data-bit='6']")
    assert bit.get_attribute("aria-label") == "Code, bit 6, value: 1"
    bit.focus()
    page.keyboard.press("Space")
    assert bit.get_attribute("aria-label") == "Code, bit 6, value: 0"
    assert bit.get_attribute("aria-pressed") == "false"
    assert page.evaluate("window.quantsim.playground.matrix.model.stored.codes[0]") == -32 - 64
    assert shown(page, "flipped") != ""
    page.click("[data-part=put-back-bits]")
    assert shown(page, "arithmetic") == lines


@pytest.mark.parametrize("name", ["int8:*", "int4:*:minmax", "mxfp4", "nvfp4", "q5_1"])
def test_the_file_holds_the_numbers_of_the_package(page: Any, name: str) -> None:
    page.select_option("[data-part=format]", name)
    with page.expect_download() as download:
        page.click("[data-part=csv]")
    spec, w = spec_of(name, "tensor", "f32"), matrices()["documents"]
    assert download.value.suggested_filename == f"quantsim-{spec.replace(':', '-')}.csv"
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    known = expected(spec, w) | {"original": w.ravel()}
    known |= {"dequantized": known["values"], "error": known["errors"], "code": known["codes"]}
    assert [(int(r["row"]), int(r["column"])) for r in rows[31:33]] == [(1, 32), (2, 1)]
    for column in ("original", "code", "dequantized", "error"):
        found = np.array([r[column] for r in rows], known[column].dtype)
        np.testing.assert_array_equal(found, known[column])
    q = qs.parse(spec)
    if name == "int8:*":
        assert {np.float32(r["scale"]) for r in rows} == {np.float32(known["scale"][0])}
    if name == "nvfp4":
        assert q.bits_per_weight(SHAPE) > 4.5
        assert {np.float32(r["tensor"]) for r in rows} == {np.float32(known["tensor"][0])}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_anybody(browser: Any, tmp_path: Path, language: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "page.html"
    file.write_text(playground_page.page(language), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme, bypass_csp=True)  # axe is a script of another hash
    page.goto(file.as_uri())
    page.click("[data-part=outlier]")
    page.locator("[data-part=code][data-bit='3']").click()
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()
    page.close()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_phone_needs_no_scrolling_sideways(browser: Any, tmp_path: Path, language: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(playground_page.page(language), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(file.as_uri())
    for name in ("int8:*", "nvfp4", "q5_1"):
        page.select_option("[data-part=format]", name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


#: Milliseconds from an input to the frame that shows what it changed, of every place of a slider or option of a list.
ANSWER = """async ([selector, type]) => {
  const node = document.querySelector(selector);
  const places = node.options ? [...node.options].map((option) => option.value) : [...Array(30).keys()];
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const times = [];
  for (const place of places) {
    await painted();
    const start = performance.now();
    node.value = place;
    node.dispatchEvent(new Event(type, { bubbles: true }));
    await painted();
    times.push(performance.now() - start);
  }
  return times;
}"""


@pytest.mark.parametrize(
    ("part", "event"),
    [
        *(("part=magnitude", "input"), ("part=format", "change"), ("part=granularity", "change")),
        *(("theory=magnitude", "input"), ("theory=rate", "input"), ("theory=format", "change")),
    ],
)
def test_an_input_is_answered_at_once(page: Any, part: str, event: str) -> None:
    """Half of them within a quarter of a second, a frame included, whatever else the machine does: 20 ms were seen."""
    times = page.evaluate(ANSWER, [f"[data-{part}]", event])
    assert len(times) >= 6
    assert np.median(times) < 250
