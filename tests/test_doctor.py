"""The self-test: passes on this machine, and would notice each thing that it looks for."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from quantsim.cli import doctor
from quantsim.cli.doctor import CHECKS, examine
from quantsim.quantizer import parse
from quantsim.quantizer.blockformats import gguf


def test_this_machine_computes_exactly():
    found = examine()
    assert found["mismatches"] == dict.fromkeys(CHECKS, 0)
    assert {"jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "matplotlib", "python"} == set(found["versions"])
    assert len(found["devices"]) == 4
    assert all(d.startswith("cpu:") for d in found["devices"])


class FusedQuantizer:
    """int8:channel whose weights after are off by one ulp, as a reciprocal or a fused multiply-add makes them."""

    def quantize(self, w):
        qw = parse("int8:channel").quantize(w)
        return type(qw)(qw.codes.at[0, 0].add(1), qw.scale, None, qw.quantizer)

    def roundtrip(self, w):
        return jnp.nextafter(parse("int8:channel").roundtrip(w), jnp.inf)


BROKEN = {
    "_bytes": ("gguf", SimpleNamespace(pack=lambda w, name: gguf.pack(w, name).at[0, 0].add(1))),
    "_codes": ("parse", lambda _: FusedQuantizer()),
    "_errors": ("parse", lambda _: FusedQuantizer()),
    "_floats": ("snap", lambda x, fmt: x),
    "_integers": ("integer_product", lambda a, b: jnp.zeros((64, 64), jnp.int32)),
    "_products": ("product", lambda x, w: (x.astype(jnp.bfloat16) @ w.T.astype(jnp.bfloat16)).astype(jnp.float32)),
}


@pytest.mark.parametrize("check", BROKEN)
def test_each_check_can_fail(monkeypatch, check):
    name, broken = BROKEN[check]
    monkeypatch.setattr(doctor, name, broken)
    assert getattr(doctor, check)() > 0


def test_the_check_of_draws_can_fail(monkeypatch):
    monkeypatch.setattr(doctor.jax.random, "normal", lambda k, shape: jnp.zeros(shape))
    assert doctor._draws() > 0


def test_every_check_is_shown_to_fail():
    assert {c.__name__ for c in CHECKS.values()} == {*BROKEN, "_draws"}
