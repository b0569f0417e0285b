"""Predictions in the page: those of the package's quadrature, whatever the format, the family and its outliers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import quantsim as qs
from quantsim import theory
from quantsim.lab.report.playground.predictions import FAMILIES, GROUPS, SHAPE, TABULATED
from quantsim.populations import parse
from tests import browser as chromium
from tests import playground_page

PREDICT = """(cases) => cases.map(([spec, family, rate, magnitude]) =>
  window.quantsim.playground.theory.predictions.theory.relMse(spec, family, rate, magnitude))"""
MOMENTS = """([family, places]) => {
  const law = window.quantsim.playground.theory.predictions.theory.families.get(family);
  const of = (upper) => places.map((x) => [0, 1].map((k) => upper(x, k)));
  const exact = places.map((x) => [0, 1, 2].map((k) => law.upper(x, k)));
  return { exact, fast: of(law.fast), pdf: places.map(law.pdf) };
}"""
#: Three nodes between jumps and seven in half a decade of the tail leave at most 2.2e-4 (of uniform weights).
TOLERANCE = 1e-3
LIVE = [spec for specs in GROUPS.values() for spec in specs]
OUTLIERS = ((0.01, 20.0), (0.001, 3.0), (0.02, 5.0), (0.0001, 1000.0))
#: A scale of each law, with few and with many levels.
STRUCK = (
    "int8:tensor",
    "int4:block32",
    "q4_0",
    "q8_0",
    "e2m1:block16:absmax:e4m3",
    "mxfp4",
    "nf4:block64",
    "e4m3",
    "bf16",
)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium.started() as browser:
        found = browser.new_page()
        found.set_content(playground_page.page())
        yield found


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_the_moments_of_the_populations(page: Any, family: str) -> None:
    places = [0.0, 1e-3, 0.4, 1.0, 1.7, 2.5, 4.0, 7.9, 8.1, 20.0, 300.0]
    found, pop = page.evaluate(MOMENTS, [family, places]), parse(family)
    known = np.array([pop.upper_moment(np.array(places), k) for k in range(3)]).T
    np.testing.assert_allclose(np.array(found["exact"]), known, rtol=1e-7, atol=1e-15)
    np.testing.assert_allclose(np.array(found["fast"]), known[:, :2], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found["pdf"], pop.pdf(np.array(places)), rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("spec", LIVE)
def test_the_page_predicts_what_the_package_predicts(page: Any, spec: str) -> None:
    found = page.evaluate(PREDICT, [[spec, family, 0.0, 1.0] for family in FAMILIES])
    known = [theory.weight_rel_mse(parse(family), qs.parse(spec), SHAPE) for family in FAMILIES]
    np.testing.assert_allclose(found, known, rtol=TOLERANCE)


@pytest.mark.parametrize("spec", STRUCK)
def test_outliers_cost_in_the_page_what_they_cost_in_the_package(page: Any, spec: str) -> None:
    cases = [(spec, family, rate, size) for family in ("normal", "laplace", "t5") for rate, size in OUTLIERS]
    found = page.evaluate(PREDICT, cases)
    names = [f"{family}+outliers(rate={rate:f},magnitude={size:g})" for _, family, rate, size in cases]
    known = [theory.weight_rel_mse(parse(name), qs.parse(spec), SHAPE) for name in names]
    np.testing.assert_allclose(found, known, rtol=TOLERANCE)


def test_two_levels_of_scales_see_outliers_too(page: Any) -> None:
    cases = [("nvfp4", "normal", rate, size) for rate, size in OUTLIERS]
    found = page.evaluate(PREDICT, cases)
    names = [f"normal+outliers(rate={rate:f},magnitude={size:g})" for _, _, rate, size in cases]
    known = [theory.weight_rel_mse(parse(name), qs.parse("nvfp4"), SHAPE) for name in names]
    np.testing.assert_allclose(found, known, rtol=TOLERANCE)


def test_sliders_move_the_prediction(page: Any) -> None:
    def shown(part: str) -> str:
        return page.locator(f"[data-theory={part}]").inner_text()

    page.select_option("[data-theory=format]", "q8_0")
    page.locator("[data-theory=rate]").focus()
    page.keyboard.press("Home")
    relative = theory.weight_rel_mse(parse("normal"), qs.parse("q8_0"), SHAPE)
    assert shown("sqnr") == f"{-10 * np.log10(relative):.1f} dB"
    assert float(shown("bits")) == qs.parse("q8_0").bits_per_weight(SHAPE)
    assert "±" in shown("measured")
    page.keyboard.press("End")
    assert shown("rate-value") == "10 %"
    assert shown("sqnr") != f"{-10 * np.log10(relative):.1f} dB"


@pytest.mark.parametrize("spec", TABULATED)
def test_what_the_page_cannot_follow_it_has_from_the_package(page: Any, spec: str) -> None:
    page.select_option("[data-theory=format]", spec)
    page.select_option("[data-theory=family]", "laplace")
    relative = theory.weight_rel_mse(parse("laplace"), qs.parse(spec), SHAPE)
    assert page.locator("[data-theory=sqnr]").inner_text() == f"{-10 * np.log10(relative):.1f} dB"
    assert page.locator("[data-theory=rate]").is_disabled()
    assert page.locator("[data-theory=tabulated]").is_visible()


def test_measured_points_lie_where_theory_says(page: Any) -> None:
    """Every point of the study that the page shows, within 4.5 standard errors and the tolerance of the page."""
    points = playground_page.known()["theory"]["points"]
    live = [p for p in points if p["spec"] in LIVE]
    assert len(live) > 200
    assert {p["magnitude"] for p in live} == {1.0, 20.0}
    cases = [(p["spec"], p["family"], p["rate"], p["magnitude"]) for p in live]
    found = np.array(page.evaluate(PREDICT, cases))
    measured, se = (np.array([p[k] for p in live]) for k in ("rel_mse", "se"))
    assert (np.abs(found - measured) < 4.5 * se + TOLERANCE * measured).all()
