"""The interactive part of the report: its numbers are those of the package, to the bit, and a reader can use it."""

from typing import Any

import numpy as np
import pytest

import quantsim as qs
from tests import playground_page
from tests.playground_matrices import SHAPE, choices, expected, matrices, spec_of

pytestmark = pytest.mark.skipif(playground_page.CHROMIUM is None, reason="no Chromium here")

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
  return { spec: plan.spec, codes: Array.from(stored.codes), values: asBits(values), errors: asBits(q.errors(w, values)),
           ...fields };
}"""


@pytest.fixture(scope="module")
def browser() -> Any:
    with playground_page.browser() as found:
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
    return (granularity == "block16" and (scale in ("f32", "f16") or few)) or scale == "f32" and few


CHOICES = choices()
FEW = [c for c in CHOICES if ":*" not in c[0] or some(c)]


@pytest.mark.parametrize("choice", FEW, ids=lambda c: spec_of(*c))
def test_the_page_quantizes_as_the_package_does(still: Any, choice: tuple[str, str, str]) -> None:
    agrees(still, choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in FEW], ids=lambda c: spec_of(*c))
def test_the_page_quantizes_as_the_package_does_in_every_combination(still: Any, choice: tuple[str, str, str]) -> None:
    agrees(still, choice)


def agrees(page: Any, choice: tuple[str, str, str]) -> None:
    """Codes, stored fields, weights and errors, as bit patterns, on every matrix; and the spec is canonical."""
    assert qs.parse(spec_of(*choice)) == qs.parse(page.evaluate(QUANTIZE, [choice, [0] * 512])["spec"])
    for name, w in matrices().items():
        assert w.shape == SHAPE
        found = page.evaluate(QUANTIZE, [choice, bits(w.ravel())])
        spec = found.pop("spec")
        assert spec == str(qs.parse(spec))
        assert found == {k: bits(v) for k, v in expected(spec, w).items()}, (spec, name)
