"""The same sweep on one device, on many, and in several processes: the same bytes; who the processes are."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from quantsim.rows import load
from quantsim.sweep import hosts, run
from quantsim.sweep.hosts import Job, connect, launcher
from quantsim.sweep.config import load as load_plan
from quantsim.sweep.programs import mesh_of
from tests.fake_disk import at_call
from tests.fake_study import command

#: 3.3 million weights a cell: four chunks on one device, two on two, one on four and more.
GRID = {
    "populations": ["normal(std=0.02)", "t5+outliers(rate=0.01,magnitude=20)"],
    "quantizers": ["int8:tensor", "int4:block32:absmax:stochastic", "q8_0"],
    "shapes": [[64, 256]],
    "seeds": [5],
    "weights": 200 * 64 * 256,
    "predict": False,
}
CELL_NAMES = [f"{p}, 64x256, seed 5" for p in GRID["populations"]]
LAUNCHERS = ("SLURM", "OMPI", "TPU", "KUBERNETES", "JOB_")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in GRID.items()))
    return path


def started(config, out, devices, *flags):
    env = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    return subprocess.Popen(
        [sys.executable, "-m", "quantsim", "sweep", str(config), "--out", str(out), *map(str, flags)],
        cwd=Path(__file__).parents[1], env=env | {"JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*processes):
    """Output and messages of processes that end well, and soon enough."""
    try:
        found = [p.communicate(timeout=120) for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0] * len(processes), found
    return found


def two_processes(config, *outs, devices=2):
    """The command in two processes that meet on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id")
    return ended(*(started(config, out, devices, *shared, k) for k, out in enumerate(outs)))


def results(folder):
    return [(folder / name).read_bytes() for name in ("table.csv", "rows.jsonl")]


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """Folder, output and messages of the command on one device."""
    out = tmp_path_factory.mktemp("alone") / "out"
    return out, *ended(started(config, out, 1))[0]


def test_the_command_prints_a_table_and_its_progress(alone):
    out, shown, message = alone
    rows = load(out / "rows.jsonl")
    assert [r["population"] for r in rows] == [p for p in GRID["populations"] for _ in GRID["quantizers"]]
    lines = shown.splitlines()
    assert lines[0].split()[:5] == ["population", "shape", "seed", "spec", "bits"]
    for line, row in zip(lines[1:], rows, strict=True):
        cells = line.split()
        assert cells[:4] == [row["population"], "64×256", "5", row["spec"]]
        assert cells[5] == f"{row['sqnr_db']:.3f}"
    assert "100%" in message
    assert "6 points, 5 compiles, " in message
    assert str(out / "table.csv") in message


def test_eight_devices_in_one_process_give_the_same_bytes(config, alone, tmp_path):
    ((shown, message),) = ended(started(config, tmp_path, 8))
    assert results(tmp_path) == results(alone[0])
    assert shown == alone[1]
    assert "100%" in message


def test_two_processes_give_the_same_bytes_and_one_of_them_writes(config, alone, tmp_path):
    (shown, message), (nothing, other) = two_processes(config, tmp_path / "first", tmp_path / "second")
    assert results(tmp_path / "first") == results(alone[0])
    assert (shown, nothing) == (alone[1], "")
    assert not (tmp_path / "second").exists()
    assert "table.csv" in message
    assert "table.csv" not in other
    for said in (message, other):  # both show how far they are
        assert "100%" in said


def interrupt(what):
    raise KeyboardInterrupt


def test_two_processes_go_on_where_one_was_cut_short(config, alone, tmp_path, monkeypatch):
    """By a process on three devices, whose chunks are others, before the third part of the second cell."""
    plan, chunk = load_plan(config), 20 * 64 * 256
    monkeypatch.setattr(run, "Engine", lambda quantizers, mesh: Engine(quantizers, mesh, chunk))
    with pytest.raises(KeyboardInterrupt), at_call(1 + 6 + 6 * 6 + 1, interrupt):
        run.run(plan, out=tmp_path / "shared", mesh=mesh_of(jax.devices()[:3]))
    stored = {part["cell"]: part["arrays"] for part in map(_json, (tmp_path / "shared" / "parts").iterdir())}
    assert stored == dict(zip(CELL_NAMES, (200, 102), strict=True))
    (shown, _), (nothing, _) = two_processes(config, tmp_path / "shared", tmp_path / "shared")
    assert results(tmp_path / "shared") == results(alone[0])
    assert (shown, nothing) == (alone[1], "")


Engine = run.Engine


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
