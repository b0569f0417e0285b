"""Sweeps that are killed, cannot write or are interrupted lose nothing, and go on to equal bytes."""

import errno
import json
import os
import random
import signal

import jax
import pytest

import quantsim as qs
from quantsim.rows import load
from quantsim.sweep import chunks, parts, programs
from quantsim.sweep.parts import MixedResultsError, Parts
from quantsim.sweep.plan import Plan
from quantsim.sweep.programs import mesh_of
from tests.fake_disk import AXES, CELLS, CHUNK, GRID, at_call, without_waiting
from tests.fake_study import command
from tests.forks import Fork

RESULTS = ("rows.jsonl", "table.csv")
ARRAYS, SPECS = 20, len(GRID["quantizers"])


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def whole(folder):
    """Every file in the folder is whole; the number of arrays measured by each part."""
    if (folder / "sweep.json").exists():
        assert json.loads((folder / "sweep.json").read_text()).keys() == {"plan", "versions", "draws"}
    found = {}
    for path in sorted((folder / "parts").glob("*.json")):
        part = json.loads(path.read_text())
        assert len(part["sums"]) == len(part["cross"]) == SPECS
        assert all(row[0] == part["arrays"] * 4 * 40 for row in part["sums"])
        found[part["cell"]] = part["arrays"]
    for name in RESULTS:
        if (folder / name).exists():
            assert (folder / name).read_bytes().count(b"\n") == 2 * SPECS + (name == "table.csv")
    return found


# --- killed ---------------------------------------------------------------------------------------------------------


SWEEP = {**GRID, **AXES}


@pytest.fixture(scope="module")
def drawn():
    """The fingerprint of draws, which every sweep into a folder needs; found once."""
    return parts.self_test()


@pytest.fixture(scope="module")
def start(drawn, tmp_path_factory):
    """A function that starts the sweep in a process of its own, on one device, in three chunks a cell."""
    how = {"devices": 1, "chunk": CHUNK, "draws": drawn}

    def start(folder, reads_only=True, **when):
        sweep = SWEEP | {"out": str(folder)}
        return Fork(tmp_path_factory.mktemp("said"), sweep=sweep, reads_only=reads_only, **how, **when)

    return start


def finished(fork):
    """Seconds of a process that nothing happens to."""
    code, seconds, _, message = fork.ended()
    assert code == 0, message
    return seconds


def was_killed(fork):
    code, _, _, message = fork.ended()
    assert code in (0, -signal.SIGKILL), message
    return code != 0


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """Results of a sweep that nothing happens to, and how long it takes once everything is compiled."""
    first, second = (tmp_path_factory.mktemp("whole") for _ in range(2))
    _, seconds = [finished(start(folder, reads_only=False)) for folder in (first, second)]
    assert results(first) == results(second)
    return results(first), seconds


def _kill_at_random(kills, start, uninterrupted, tmp_path):
    expected, seconds = uninterrupted
    rng, killed, folder, reached = random.Random(5), 0, 0, {}
    while killed < kills:
        fork = start(tmp_path / str(folder))
        fork.kill_after(rng.uniform(0.3, 1.0) * seconds)
        ended = was_killed(fork)
        killed += ended
        now = whole(tmp_path / str(folder))
        assert all(now[cell] >= arrays for cell, arrays in reached.items()), "a process lost what another had measured"
        reached = now
        if not ended:
            assert results(tmp_path / str(folder)) == expected
            folder, reached = folder + 1, {}
    finished(start(tmp_path / str(folder)))
    assert results(tmp_path / str(folder)) == expected
    assert list((tmp_path / str(folder)).rglob("*.tmp")) == []


def test_a_sweep_killed_20_times_gives_the_same_bytes(start, uninterrupted, tmp_path):
    _kill_at_random(20, start, uninterrupted, tmp_path)


@pytest.mark.slow
def test_a_sweep_killed_200_times_gives_the_same_bytes(start, uninterrupted, tmp_path):
    _kill_at_random(200, start, uninterrupted, tmp_path)


def _kill_at_call(number, start, uninterrupted, folder):
    assert was_killed(start(folder, kill_at=number)), "there are not so many calls"
    whole(folder)
    finished(start(folder))
    assert results(folder) == uninterrupted[0]
    assert whole(folder) == dict.fromkeys(whole(folder), ARRAYS)


@pytest.mark.parametrize("number", [3, 15, 17])  # half of the plan, of the second part and of its replacement
def test_a_sweep_killed_inside_a_write_gives_the_same_bytes(number, start, uninterrupted, tmp_path):
    _kill_at_call(number, start, uninterrupted, tmp_path / "out")


# --- in this process ------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(drawn, monkeypatch):
    """``qs.sweep`` of the grid into a folder, in three chunks a cell by one thread; nothing is compiled twice."""
    monkeypatch.setattr(programs, "CHUNK_ON_CPU", CHUNK)
    monkeypatch.setattr(chunks, "cores", lambda: 1)
    monkeypatch.setattr(os, "fsync", without_waiting)
    monkeypatch.setattr(parts, "self_test", lambda: drawn)
    return lambda folder, **axes: qs.sweep(**SWEEP | axes, out=folder, mesh=mesh_of(jax.devices()[:1]))


@pytest.fixture
def expected(sweep, tmp_path):
    """Results of an uninterrupted sweep, and its calls that write."""
    with at_call(0, lambda _: None) as calls:
        sweep(tmp_path / "expected")
    return results(tmp_path / "expected"), calls


WRITE = ["open", "write", "fsync", "replace", "open folder", "fsync"]


def test_what_is_written(expected, sweep, tmp_path):
    """The plan, three times two parts, two results; each synced, put in place, and its folder synced."""
    found, calls = expected
    assert calls == ["mkdir"] + WRITE * (1 + 2 * 3 + 2)
    assert whole(tmp_path / "expected") == dict.fromkeys(CELLS, ARRAYS)
    assert len(load(tmp_path / "expected" / "rows.jsonl")) == 2 * SPECS
    again = sweep(tmp_path / "expected")
    assert results(tmp_path / "expected") == found
    assert again.compiles == 0


@pytest.mark.slow
def test_a_sweep_killed_at_any_call_gives_the_same_bytes(start, uninterrupted, expected, tmp_path):
    for number in range(1, len(expected[1]) + 1):
        _kill_at_call(number, start, uninterrupted, tmp_path / str(number))


def test_it_is_the_same_in_another_process(expected, uninterrupted):
    assert expected[0] == uninterrupted[0]


def failing(code):
    """As the system fails: with the name of a file where the call has one."""

    def happen(what):
        raise OSError(code, os.strerror(code), *(["the path"] if what not in ("write", "fsync") else []))

    return happen


#: What fails, and at which calls: at all of them, or at one in seven, of which each is another of the six of a write.
FAILURES = {errno.ENOSPC: 1, errno.EIO: 7}


@pytest.mark.parametrize("code", FAILURES, ids=errno.errorcode.get)
def test_a_write_that_fails_leaves_the_old_file_and_the_sweep_goes_on(code, sweep, expected, tmp_path):
    for number in range(1, len(expected[1]) + 1, FAILURES[code]):
        folder = tmp_path / str(number)
        with pytest.raises(OSError, match=os.strerror(code)) as failure, at_call(number, failing(code)) as calls:
            sweep(folder)
        assert (failure.value.errno, len(calls)) == (code, number)  # and nothing was written afterwards
        written = calls.count("replace") - (calls[-1] == "replace")
        assert sum(-(-arrays // 7) for arrays in whole(folder).values()) == min(max(written - 1, 0), 6)
        assert list(folder.rglob("*.tmp")) == []
        sweep(folder)
        assert results(folder) == expected[0]


@pytest.fixture
def config(tmp_path):
    """The grid as a file."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in SWEEP.items()]
    (tmp_path / "grid.toml").write_text("\n".join(lines))
    return tmp_path / "grid.toml"


@pytest.fixture
def quantsim(sweep, capfd, monkeypatch):
    """The command, on one device: its programs are those of ``sweep``."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    monkeypatch.setenv("QUANTSIM_CACHE", "0")  # no calls that write but those of the sweep
    return command(capfd)


@pytest.mark.parametrize("number", [1, *range(8, 14)])  # the folder, and every call of the first part
def test_a_command_that_cannot_write_ends_with_4(number, quantsim, config, tmp_path, expected):
    out = tmp_path / "out"
    with at_call(number, failing(errno.ENOSPC)):
        code, shown, message = quantsim("sweep", config, "--out", out)
    assert (code, shown) == (4, "")
    assert "No space left on device; choose another folder with --out" in message
    assert f"cannot write {out}" in message.replace("the path", str(out))
    code, shown, _ = quantsim("sweep", config, "--out", out)
    assert code == 0
    assert results(out) == expected[0]


def interrupt(what):
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [14, 15, 44])  # before a part is opened, inside of its write, when all are there
def test_an_interrupted_command_ends_with_130_and_goes_on(number, quantsim, config, tmp_path, expected):
    out = tmp_path / "out"
    with at_call(number, interrupt) as calls:
        code, shown, message = quantsim("sweep", config, "--out", out)
    assert (code, shown, len(calls)) == (130, "", number)
    assert "the same command goes on from there" in message
    measured = whole(out)
    code, shown, _ = quantsim("sweep", config, "--out", out)
    assert (code, shown.count("\n")) == (0, 1 + 2 * SPECS)
    assert results(out) == expected[0]
    assert sum(measured.values()) == (2 * ARRAYS if number == 44 else 7)  # a chunk of the first cell


# --- refused --------------------------------------------------------------------------------------------------------

CHANGED = {
    r"another plan: seeds \[3\] there, \[4\] now": lambda patch: {"seeds": [4]},
    "another plan: weights 3200 there, 6400 now": lambda patch: {"weights": 6400},
    r"another plan: shapes \[\[4, 40\]\] there, \[\[4, 80\]\] now": lambda patch: {"shapes": [(4, 80)]},
    "other versions: quantsim .* there, 9.9.9 now": lambda patch: patch.setattr(qs, "__version__", "9.9.9"),
    "other random numbers: .* there, 0123 now": lambda patch: patch.setattr(parts, "self_test", lambda: "0123"),
}


@pytest.mark.parametrize("message", CHANGED)
def test_parts_are_never_mixed_with_others(message, sweep, tmp_path, monkeypatch):
    sweep(tmp_path)
    before, axes = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}, CHANGED[message](monkeypatch) or {}
    with pytest.raises(MixedResultsError, match=f"{tmp_path} holds parts of {message}; choose another folder, or"):
        sweep(tmp_path, **axes)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*")} == before


DAMAGED = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a number": lambda text: "3",
    "a list": lambda text: "[]",
    "of another cell": lambda text: text.replace("seed 3", "seed 4"),
    "without sums": lambda text: text.replace('"sums"', '"sum"'),
    "of fewer quantizers": lambda text: json.dumps({k: v[:1] if isinstance(v, list) else v
                                                    for k, v in json.loads(text).items()}),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_part_says_which_file_to_delete(how, sweep, tmp_path, expected):
    sweep(tmp_path / "out")
    path = sorted((tmp_path / "out" / "parts").iterdir())[0]
    path.write_text(DAMAGED[how](path.read_text()))
    with pytest.raises(MixedResultsError, match=f"part {path} is damaged: delete it, and its cell is measured anew"):
        sweep(tmp_path / "out")
    path.unlink()
    sweep(tmp_path / "out")
    assert results(tmp_path / "out") == expected[0]


def test_a_damaged_plan_says_which_file_it_is(sweep, tmp_path):
    sweep(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(MixedResultsError, match=r"sweep\.json"):
        sweep(tmp_path)


def test_the_self_test_is_a_function_of_the_draws(monkeypatch):
    drawn = parts.self_test()
    assert (drawn, len(drawn)) == (parts.self_test(), 16)
    monkeypatch.setattr(qs.populations, "key", lambda seed: jax.random.key(seed + 1))
    assert parts.self_test() != drawn


def test_parts_come_back_to_the_bit(sweep, tmp_path):
    sweep(tmp_path)
    plan = Plan.of(**SWEEP)
    for cell in plan.cells():
        stored = Parts(tmp_path, plan)
        totals = stored.load(cell, SPECS)
        stored.save(cell, totals)
        assert repr(stored.load(cell, SPECS)) == repr(totals)
        for row, stats in zip(load(tmp_path / "rows.jsonl").where(population=str(cell.population)), totals.stats(),
                              strict=True):  # fmt: skip
            assert row["mse"] == stats.mse
