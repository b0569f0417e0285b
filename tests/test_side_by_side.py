"""Studies in processes of their own: the same rows and figures as one by one, and one end for all of them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantsim import cli
from quantsim.cli import side_by_side
from quantsim.lab import runner, study
from quantsim.rows import Rows

QUICK = ("printed_matrix", "weight_range")
SLOW = ("formats", "prediction")
START = """
import signal
import sys
from quantsim import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it starts in the background
cli.main(sys.argv[1:])
"""


def test_two_at_a_time_give_the_rows_and_figures_of_one_by_one(tmp_path, capsys):
    beside, alone = tmp_path / "beside", tmp_path / "alone"
    cli.main(["run", *QUICK, "--small", "--jobs", "2", "--out", str(beside)])
    told = capsys.readouterr().out
    for name in QUICK:
        assert f"{name}: measured, " in told
        runner.run(name, alone / "small", small=True)
        for ending in ("jsonl", "svg", "pdf", "png"):
            file = Path("small") / f"{name}.{ending}"
            assert (beside / file).read_bytes() == (alone / file).read_bytes(), file
    cli.main(["run", *QUICK, "--small", "--jobs", "2", "--out", str(beside)])
    assert capsys.readouterr().out.count("loaded (key matches)") == 2


def test_what_measures_time_runs_alone_and_last(monkeypatch, tmp_path):
    ran = []

    def together(names, *_, **__):
        ran.append(names)
        return iter(())

    def alone(name, *_, **__):
        ran.append(name)
        return runner.Outcome(name, "measured", drawn=False, seconds=0.0, rows=Rows())

    monkeypatch.setattr(side_by_side, "run", together)
    monkeypatch.setattr(runner, "run", alone)
    monkeypatch.setattr(cli.studies, "_tell", lambda *_: None)
    monkeypatch.setattr(runner, "settled", lambda _: ())
    (tmp_path / "out").mkdir()
    cli.main(
        ["run", "integer_matmul", "formats", "throughput", "ranges", "--jobs", "2", "--out", str(tmp_path / "out")]
    )
    assert ran == [["formats", "ranges"], "integer_matmul", "throughput"]


def test_studies_of_time_say_so():
    """Whoever reads a clock, or starts what does."""
    reads_a_clock = {n for n in study.names() if "_timing" in (study.folder() / f"{n}.py").read_text(encoding="utf-8")}
    assert {n for n in study.names() if study.measures_time(n)} >= reads_a_clock
    assert study.measures_time("integer_matmul")


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_a_number_of_jobs_that_is_none_is_refused(jobs, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "ranges", f"--jobs={jobs}"])
    assert end.value.code == 2
    assert f"at least 1, not {jobs}" in capsys.readouterr().err


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_command_that_is_cut_short_ends_all_its_processes(tmp_path, how, code):
    command = [sys.executable, "-c", START, "run", *SLOW, "--small", "--jobs", "2", "--out", str(tmp_path)]
    partial = [tmp_path / "small" / f"{name}.partial.jsonl" for name in SLOW]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not any(path.exists() for path in partial):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(how)
        _, message = process.communicate(timeout=60)  # it waits for all that hold its stderr: the other processes, too
    assert process.returncode == code
    assert "Traceback" not in message
    if how == signal.SIGINT:
        assert message.endswith("interrupted: what is finished is kept, the same command goes on from there\n")
