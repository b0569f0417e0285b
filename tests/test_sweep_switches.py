"""Sweeps give the same rows whatever the process has switched on: a mesh, 64-bit types, strict promotion of types."""

import json
import os
import subprocess
import sys

import jax
import pytest

import quantsim as qs
from quantsim.sweep import measure
from tests.fake_disk import AXES, GRID, SHAPE
from tests.test_traces import counting

SWEEP = {**GRID, **AXES, "seeds": [3, 4]}


def mesh(shape, names, kind):
    return jax.set_mesh(jax.make_mesh(shape, names, axis_types=(kind,) * len(shape)))


def four_explicit():
    return mesh((4,), ("d",), jax.sharding.AxisType.Explicit)


def four_automatic():
    return mesh((4,), ("d",), jax.sharding.AxisType.Auto)


def two_by_two():
    return mesh((2, 2), ("rows", "columns"), jax.sharding.AxisType.Explicit)


def one_of_four():
    return jax.set_mesh(jax.make_mesh((1,), ("arrays",), devices=jax.devices()[-1:]))


def wide_types():
    return jax.enable_x64(True)


def strict_promotion():
    return jax.numpy_dtype_promotion("strict")


MESHES = (four_explicit, four_automatic, two_by_two, one_of_four)
SWITCHES = (*MESHES, wide_types, strict_promotion)


def bits(rows):
    """Every digit of every number; NaN equals itself."""
    return [json.dumps(row) for row in rows]


def measured():
    return [s.result() for s in measure(*GRID["populations"][1:], GRID["quantizers"], shape=SHAPE, arrays=20, seed=2)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Rows of a sweep into a folder, and of ``measure``, with nothing switched on."""
    return bits(qs.sweep(**SWEEP, out=tmp_path_factory.mktemp("plain"))), bits(measured())


@pytest.mark.parametrize("switch", SWITCHES)
def test_rows_are_the_same_bits(switch, expected, tmp_path):
    with switch(), counting() as counted:
        found = qs.sweep(**SWEEP, out=tmp_path)
        one = measured()
    assert (bits(found), bits(one)) == expected
    if switch in MESHES:  # and no program is compiled for a mesh that a sweep does not use
        assert found.compiles == 0
        assert counted["compiles"] <= 1  # of ``key`` alone


def test_the_caller_keeps_its_mesh():
    seen = []
    with four_explicit():
        own = jax.sharding.get_mesh()
        qs.sweep(**SWEEP, report=lambda *_: seen.append(jax.sharding.get_mesh()))
        assert jax.sharding.get_mesh() == own
    assert set(seen) == {own}


# --- in a process of its own, where nothing was imported before -----------------------------------------------------

SCRIPT = """
import json, sys
import jax
import quantsim as qs
with jax.set_mesh(jax.make_mesh((4,), ("d",))):
    rows = qs.sweep(**json.loads(sys.argv[1]))
print(json.dumps([json.dumps(row) for row in rows]))
wrong = [
    dict(populations=3), dict(populations=None), dict(populations=[qs.parse("int8:tensor")]), dict(quantizers=8),
    dict(quantizers=["int8:tensor", 8]), dict(quantizers=[qs.populations.Normal()]), dict(seeds=None), dict(seeds="3"),
    dict(seeds=[None]), dict(seeds=[1.5]), dict(seeds=[float("nan")]), dict(shapes=4), dict(shapes=(4, 8)),
    dict(shapes="4x8"), dict(weights=None), dict(weights=float("inf")), dict(weights="many"), dict(predict="no"),
    dict(predict=1),
    dict(mesh=4), dict(report="stderr"), dict(out=3), dict(out=True),
]
for change in wrong:
    given = dict(populations="normal", quantizers="int8:tensor", shapes=[(4, 8)], weights=64)
    try:
        qs.sweep(**given | change)
    except (TypeError, ValueError) as refused:
        print(json.dumps(str(refused)))
    else:
        print(json.dumps(f"{change} was accepted"))
"""
WORDS = ("of a sweep", "a sweep wants", "is wanted")


def test_all_switches_at_once_and_wrong_kinds_of_arguments(expected):
    """Also what is made at import is of 32 bits; and no argument is refused by a word of Python's own."""
    switched_on = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUM_CPU_DEVICES": "4"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(SWEEP)],
        env=os.environ | switched_on,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, *refused = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == expected[0]
    assert len(refused) == 23
    for message in refused:
        assert any(words in message for words in WORDS), message
