"""Compiled programs are dropped where much memory is held or nobody knows how much, and then the memory is free."""

import jax
import numpy as np
import pytest

from quantsim.lab import memory


@pytest.mark.parametrize(("held", "drops"), [(0, False), (100, False), (101, True), (None, True)])
def test_programs_are_dropped_beyond_a_limit_and_where_nobody_knows(monkeypatch, held, drops):
    calls = []
    monkeypatch.setattr(memory.jax, "clear_caches", lambda: calls.append(1))
    monkeypatch.setattr(memory, "held_bytes", lambda: held)
    assert memory.drop_programs_beyond(100) is drops
    assert bool(calls) is drops


def test_a_dropped_program_is_compiled_again_and_gives_the_same():
    double = jax.jit(lambda x: x * 2)
    before = np.asarray(double(np.arange(3.0)))
    assert memory.drop_programs_beyond(0)
    assert double._cache_size() == 0
    np.testing.assert_array_equal(double(np.arange(3.0)), before)


@pytest.mark.parametrize(("held", "gives"), [(100, False), (101, True), (None, False)])
def test_memory_is_handed_back_beyond_a_limit(monkeypatch, held, gives):
    calls = []
    monkeypatch.setattr(memory, "_give_back", lambda: calls.append(1))
    monkeypatch.setattr(memory, "held_bytes", lambda: held)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.give_back_beyond(100) is gives
    assert bool(calls) is gives


def test_what_is_held_is_more_than_an_interpreter_and_less_than_a_terabyte():
    held = memory.held_bytes()
    assert held is None or 2**24 < held < 2**40
