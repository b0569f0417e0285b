"""What the interactive part of the report is made of, without a browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import quantsim as qs
from quantsim import formats
from quantsim.lab.matrix import document_matrix
from quantsim.lab.report.playground.data import data
from quantsim.lab.report.playground.facts import elements, format_facts
from quantsim.lab.report.playground.predictions import FAMILIES, GROUPS, SHAPE, TABULATED, study_points
from quantsim.lab.report.strings import LANGUAGES, words
from tests import playground_page
from tests.playground_matrices import choices, spec_of

FIGURES = Path(__file__).parent.parent / "paper_figures"
SECTIONS = ("matrix", "theory")


def test_the_data_are_small_and_the_same_every_time() -> None:
    first, second = (json.dumps(data(FIGURES), sort_keys=True) for _ in range(2))
    assert first == second
    assert len(first) < 300_000


def test_the_documents_matrix_is_given_to_the_bit() -> None:
    given = np.array(playground_page.known()["matrix"]["sources"]["documents"], np.float32)
    np.testing.assert_array_equal(given.view(np.uint32), document_matrix().ravel().view(np.uint32))


def test_every_choice_is_a_quantizer() -> None:
    """And together they are every format whose search is simple, under every granularity and scale format."""
    specs = {str(qs.parse(spec_of(*choice))) for choice in choices()}
    assert len(specs) == len(choices())
    assert {"int8:tensor", "int2:block4:minmax:e4m3", "nf4:channel:absmax:bf16", "mxint8:rceil", "iq4_nl"} <= specs


def test_every_format_is_compared_with_one_whose_granularity_is_free() -> None:
    free = {f["name"] for f in format_facts() if f["size"] is None}
    assert {f["compared"] for f in format_facts()} <= free


@pytest.mark.parametrize("name", elements())
def test_facts_of_elements_are_those_of_the_format(name: str) -> None:
    fmt, facts = (formats.parse_scale if name.startswith("ue") else formats.parse)(name), elements()[name]
    assert facts["bits"] == fmt.bits
    if facts["kind"] == "codebook":
        np.testing.assert_array_equal(np.float32(facts["values"]), np.float32(formats.levels(fmt)))
    elif fmt.bits <= 16:
        np.testing.assert_array_equal([facts["low"], facts["high"]], formats.levels(fmt)[[0, -1]])


def test_predicted_formats_are_told_with_their_bits() -> None:
    facts = playground_page.known()["theory"]
    assert {f["spec"] for f in facts["formats"]} == {s for specs in GROUPS.values() for s in specs} | set(TABULATED)
    assert all(f["bits"] == qs.parse(f["spec"]).bits_per_weight(SHAPE) for f in facts["formats"])


def test_points_are_rows_of_the_study(tmp_path: Path) -> None:
    row = {"population": "normal+outliers(rate=0.01,magnitude=20)", "spec": "q8_0", "mse": 0.25, "mse_se": 0.125}
    others = ("gennorm(beta=0.7)", "laplace+outliers(rate=0.003,magnitude=30,sign=positive,values=spread)")
    rows = [row, *(row | {"population": name} for name in others), row | {"spec": "q4_k"}]
    (tmp_path / "prediction.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    point = {"spec": "q8_0", "family": "normal", "rate": 0.01, "magnitude": 20.0, "rel_mse": 0.25, "se": 0.125}
    assert study_points(tmp_path) == [point]
    assert study_points(tmp_path / "nowhere") == []
    assert {p["family"] for p in study_points(FIGURES)} <= set(FAMILIES)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_word_is_said_in_every_language_with_the_same_blanks(section: str) -> None:
    first, *others = (words(language)[section] for language in LANGUAGES)
    for other in others:
        assert list(first) == list(other)
        for name, text in first.items():
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", other[name])), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_markup_holds_no_style_and_no_script(language: str) -> None:
    """The policy of the page would refuse them."""
    fragment = playground_page.page(language).partition('<section id="playground"')[2].partition("<script")[0]
    assert len(fragment) > 5000
    assert not re.search(r"\s(style|on\w+)=", fragment)
