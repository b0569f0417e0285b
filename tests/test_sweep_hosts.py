"""The same sweep on one device, on many, and in several processes: the same bytes; who the processes are."""

import itertools
import json
import os
import signal
import socket

import jax
import pytest

from quantsim.rows import load
from quantsim.sweep import hosts
from quantsim.sweep.hosts import Job, connect, launcher
from quantsim.sweep.programs import mesh_of
from tests.fake_study import command
from tests.forks import Fork

SHAPE, ARRAYS = (16, 288), 40
#: One program draws both populations, one measures two of the quantizers.
GRID = {
    "populations": ["normal+outliers(rate=0.01,magnitude=20)", "normal(std=2)+outliers(rate=0.1,magnitude=9)"],
    "quantizers": ["int4:block32:absmax:stochastic", "q8_0", "int3:block32:absmax:stochastic"],
    "shapes": [SHAPE],
    "seeds": [5],
    "weights": ARRAYS * 16 * 288,
    "predict": False,
}
CELL_NAMES = [f"{p}, 16x288, seed 5" for p in GRID["populations"]]
CHUNK = 4 * 16 * 288  # weights of a device: ten chunks a cell on one device, three on four, two on eight
LAUNCHERS = ("SLURM", "OMPI", "TPU", "KUBERNETES", "JOB_")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in GRID.items()))
    return path


@pytest.fixture
def command_in_a_process(config, tmp_path):
    """A function that starts the command in a process of its own with so many devices."""
    count = itertools.count()

    def start(out, devices, *flags, **how):
        args = ["sweep", str(config), "--out", str(out), *map(str, flags)]
        return Fork(tmp_path / f"said{next(count)}", devices=devices, chunk=CHUNK, command=args, **how)

    return start


def said_by(*forks):
    """Output and messages of processes that end well."""
    found = [fork.ended() for fork in forks]
    assert [code for code, *_ in found] == [0] * len(forks), found
    return [(shown, message) for _, _, shown, message in found]


@pytest.fixture
def two_processes(command_in_a_process):
    """A function that runs the command in two processes that meet on this machine, each with two devices."""

    def run(*outs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id")
        return said_by(*(command_in_a_process(out, 2, *shared, k) for k, out in enumerate(outs)))

    return run


def results(folder):
    return [(folder / name).read_bytes() for name in ("table.csv", "rows.jsonl")]


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """Folder, output and messages of the command on one device."""
    out = tmp_path_factory.mktemp("alone") / "out"
    args = ["sweep", str(config), "--out", str(out)]
    return out, *said_by(Fork(out.parent, devices=1, chunk=CHUNK, command=args))[0]


def test_the_command_prints_a_table_and_its_progress(alone):
    out, shown, message = alone
    rows = load(out / "rows.jsonl")
    assert [r["population"] for r in rows] == [p for p in GRID["populations"] for _ in GRID["quantizers"]]
    lines = shown.splitlines()
    assert lines[0].split()[:5] == ["population", "shape", "seed", "spec", "bits"]
    for line, row in zip(lines[1:], rows, strict=True):
        cells = line.split()
        assert cells[:4] == [row["population"], "16×288", "5", row["spec"]]
        assert cells[5] == f"{row['sqnr_db']:.3f}"
    assert "100%" in message
    assert "6 points, 3 compiles, " in message
    assert str(out / "table.csv") in message


def test_eight_devices_in_one_process_give_the_same_bytes(command_in_a_process, alone, tmp_path):
    ((shown, message),) = said_by(command_in_a_process(tmp_path / "out", 8))
    assert results(tmp_path / "out") == results(alone[0])
    assert shown == alone[1]
    assert "100%" in message


def test_two_processes_give_the_same_bytes_and_one_of_them_writes(two_processes, alone, tmp_path):
    (shown, message), (nothing, other) = two_processes(tmp_path / "first", tmp_path / "second")
    assert results(tmp_path / "first") == results(alone[0])
    assert (shown, nothing) == (alone[1], "")
    assert not (tmp_path / "second").exists()
    assert "table.csv" in message
    assert "table.csv" not in other
    for said in (message, other):  # both show how far they are
        assert "100%" in said


def test_two_processes_go_on_where_one_was_cut_short(command_in_a_process, two_processes, alone, tmp_path):
    """One on one device, whose chunks are others, before the sixth part of the second cell."""
    before = 1 + 6 + 6 * (ARRAYS // 4)  # calls that write the plan and the parts of the first cell
    code, *_ = command_in_a_process(tmp_path / "shared", 1, kill_at=before + 6 * 5 + 1, reads_only=True).ended()
    assert code == -signal.SIGKILL
    stored = {part["cell"]: part["arrays"] for part in map(_json, (tmp_path / "shared" / "parts").iterdir())}
    assert stored == dict(zip(CELL_NAMES, (ARRAYS, 20), strict=True))
    (shown, _), (nothing, _) = two_processes(tmp_path / "shared", tmp_path / "shared")
    assert results(tmp_path / "shared") == results(alone[0])
    assert (shown, nothing) == (alone[1], "")


def _json(path):
    return json.loads(path.read_text())


# --- who is there ---------------------------------------------------------------------------------------------------

ENVIRONMENTS = [
    ({}, None),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, "SLURM"),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),  # a job of one task
    ({"SLURM_NTASKS": "4"}, None),  # an allocation, before srun starts its tasks
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "Open MPI"),
    ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
    ({"TPU_WORKER_HOSTNAMES": "one,two", "TPU_WORKER_ID": "1"}, "Cloud TPU"),
    ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ({"KUBERNETES_SERVICE_HOST": "127.0.0.1", "JOB_COMPLETION_INDEX": "3"}, "Kubernetes"),
    ({"KUBERNETES_SERVICE_HOST": "127.0.0.1"}, None),  # a pod that belongs to no indexed job
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "Open MPI"),
]


@pytest.mark.parametrize(("env", "expected"), ENVIRONMENTS)
def test_launchers(env, expected):
    assert launcher(env) == expected


@pytest.fixture
def joined(monkeypatch):
    """Arguments of every attempt to join other processes; no launcher has started this one."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    for name in [k for k in os.environ if k.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    return calls


def test_a_process_alone_joins_nobody(joined):
    connect(Job())
    assert joined == []


def test_jax_is_left_to_ask_the_launcher(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "2")
    connect(Job())
    assert joined == [()]


def test_what_is_said_goes_before_the_launcher(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "2")
    connect(Job("127.0.0.1:1234", 2, 1))
    assert joined == [("127.0.0.1:1234", 2, 1)]


HALF = "several processes need all of --coordinator host:port, --num-processes and --process-id, or none of them"
WRONG = {
    ("--coordinator", "127.0.0.1:1234"): HALF,
    ("--num-processes", "2", "--process-id", "0"): HALF,
    ("--coordinator", "127.0.0.1:1234", "--process-id", "0"): HALF,
    ("--coordinator", "127.0.0.1:1234", "--num-processes", "2"): HALF,
    ("--process-id", "0"): HALF,
    ("--coordinator", "127.0.0.1:1234", "--num-processes", "2", "--process-id", "2"): "between 0 and 1, got 2",
    ("--coordinator", "127.0.0.1:1234", "--num-processes", "2", "--process-id", "-1"): "between 0 and 1, got -1",
    ("--coordinator", "127.0.0.1:1234", "--num-processes", "2", "--process-id", "first"): "--process-id",
}


@pytest.mark.parametrize("flags", WRONG, ids=" ".join)
def test_flags_that_make_no_job_end_with_2(flags, joined, config, tmp_path, capsys):
    code, shown, message = command(capsys)("sweep", config, "--out", tmp_path / "out", *flags)
    assert (code, shown, joined) == (2, "", [])
    assert WRONG[flags] in message
    assert not (tmp_path / "out").exists()


def test_a_process_alone_agrees_with_itself():
    assert hosts.agreed([3, 2**31 - 1], mesh_of(jax.devices())) == [3, 2**31 - 1]
    assert hosts.devices() == f"4 x {jax.devices()[0].device_kind} (cpu)"
