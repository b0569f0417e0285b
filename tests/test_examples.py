"""The examples run as they are written, and what they print is what their text says."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def printed(name, capsys):
    (path,) = [path for path in EXAMPLES if path.stem == name]
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


def test_one_outlier_costs_what_is_foretold(capsys):
    out = printed("one_outlier", capsys)
    assert "weights that differ: 1 of 262144" in out
    before, after = (float(x) for x in re.search(r"error ([\d.]+)% of .* ([\d.]+)% with it", out).groups())
    predicted = float(re.search(r"predicted ([\d.]+)%", out)[1])
    assert abs(after / predicted - 1) < 0.01  # 262144 errors: their rms is known to 0.1 %
    assert after > 20 * before  # the scale grew from some 4.6 to 100 standard deviations
    errors = {line[:26].strip(): float(line.split()[-1][:-1]) for line in out.splitlines() if line.endswith("%")}
    assert errors["int8:block32"] < errors["int8:channel"] < errors["int8:tensor"]
    assert errors["int8:tensor, outlier apart"] == pytest.approx(before, rel=0.01)


def test_a_mixture_stays_under_its_budget_and_lies_between_the_formats_around_it(capsys):
    out = printed("choose_a_format", capsys)
    rows = re.findall(r"^(\S+(?: mixture)?) +([\d.]+) +([\d.]+)$", out, re.MULTILINE)
    table = {name: (float(bits), float(damage)) for name, bits, damage in rows}
    bits, damage = table.pop("best mixture")
    assert bits <= 5.0 + 0.0005
    assert all(damage <= other for taken, other in table.values() if taken <= 5.0)


def test_examples_are_scripts_of_cells():
    assert {path.stem for path in EXAMPLES} == {"one_outlier", "choose_a_format"}
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert text.count("# %% [markdown]\n") >= 4
        assert text.count("# %%\n") >= 4
