"""How a command ends: 0 fine, 1 a check failed, 2 usage, 4 cannot write, 130 interrupted; 3 is in test_checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import quantsim as qs
from quantsim.cli import doctor
from quantsim.lab import runner
from quantsim.rows import load
from tests.fake_study import FAKE, command, files, registry


@pytest.fixture
def quantsim(capsys):
    return command(capsys)


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """One fake study, in the place of the real ones."""
    for register in registry(tmp_path, monkeypatch):
        yield register(fake=FAKE)


@pytest.mark.parametrize(("mismatches", "expected"), [(0, 0), (3, 1)])
def test_doctor_ends_with_1_where_a_check_fails(quantsim, monkeypatch, mismatches, expected):
    monkeypatch.setattr(doctor, "CHECKS", {"sums": lambda: 0, "products": lambda: mismatches})
    code, shown, message = quantsim("doctor")
    assert code == expected
    last = "FAIL products: 3 mismatches" if expected else "ok   products: 0 mismatches"
    assert shown.splitlines()[-2:] == ["ok   sums: 0 mismatches", last]
    assert ("does not compute exactly" in message) == bool(expected)
    code, shown, _ = quantsim("doctor", "--json")
    assert (code, json.loads(shown)["mismatches"]["products"]) == (expected, mismatches)


USAGE = {
    ("run", "int8matrix"): "no study 'int8matrix'; there are fake",
    ("run", "faked"): "no study 'faked'; did you mean fake? there are fake",
    ("matrix", "--format", "int8:blok32"): "did you mean 'int8:block32'?",
    ("compare", "int8:tensor", "--population", "norml"): "did you mean 'normal'?",
    ("compare", "int8:block0"): "at least 1 weight",
    ("compare", "lm-w32-s0"): "lm-w32-s0 is a checkpoint, which is compared with one other",
    ("compare", "q8_0", "w.gguf"): "w.gguf is a checkpoint, which is compared with one other",
    ("matrix", "int8:channel"): "in the place of a file: quantsim matrix --format int8:channel",
    ("compare",): "name at least one quantizer",
    ("compare", "int8:tensor", "--shape", "0", "5"): "at least one row and column",
    ("compare", "int8:tensor", "--seed", str(2**70)): "a seed lies between 0 and 2^32 - 1",
    ("matrix", "--seed", "-1"): "Seed must be between",
    ("matrix", "--seed", "x"): "--seed",
    ("matrix", "w.npy", "--seed", "3"): "--seed is of the documents' matrix",
    ("matrix", "--tensor", "up"): "name the file too",
    ("matrix", "--csv", "--json"): "--csv and --json are two ways to print",
    ("compare", "bf16", "--weights", "w.npy", "--population", "t5"): "population: of drawn weights",
    ("compare", "bf16", "--weights", "w.npy", "--shape", "2", "3", "--seed", "0"): "shape, seed: of drawn weights",
    ("compare", "bf16", "--tensor", "up"): "name the file with --weights",
    ("matrx",): "Available subcommands: list, run, confirm, claims, report, matrix, compare",
    ("run", "--smal"): "--smal",
    (): "Missing subcommand",
}


@pytest.mark.parametrize("args", USAGE, ids=" ".join)
def test_wrong_usage_ends_with_2_and_says_what_was_meant(quantsim, studies, args):
    code, shown, message = quantsim(*args)
    assert (code, shown) == (2, "")
    assert USAGE[args] in message


def test_the_version_is_that_of_the_package(quantsim):
    code, shown, message = quantsim("--version")
    assert (code, shown.split()[:2], message) == (0, ["quantsim", f"{qs.__version__},"], "")


@pytest.mark.parametrize(("platform", "args"), [("cuda", ("matrix", "--json")), ("nonsense", ("compare", "bf16"))])
def test_a_platform_without_a_device_is_named_in_a_line(platform, args):
    env = os.environ | {"JAX_PLATFORMS": platform}
    done = subprocess.run([sys.executable, "-m", "quantsim", *args], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"JAX finds no device of {platform}: unset JAX_PLATFORMS" in done.stderr


def test_help_is_no_error(quantsim):
    code, shown, message = quantsim("compare", "--help")
    assert (code, message) == (0, "")
    assert "standard error" in shown


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_folder_that_cannot_be_written_to_ends_with_4(quantsim, studies, tmp_path, inside):
    (tmp_path / "out").write_text("a file")
    code, shown, message = quantsim("run", "--out", tmp_path / "out" / inside)
    assert (code, shown) == (4, "")
    assert f"cannot write {tmp_path / 'out'}" in message
    assert "choose another folder with --out" in message


def test_the_option_that_chose_a_place_is_named_before_anything_is_read(quantsim, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, shown, message = quantsim("inspect", "lm-w32-s0", "--figures", tmp_path / "out" / "deeper")
    assert (code, shown, message.count("\n")) == (4, "", 1)
    assert "choose another folder with --figures" in message


def test_a_budget_that_only_formats_out_of_gguf_meet_says_how_they_are_mixed(quantsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", np.random.default_rng(0).normal(size=(32, 128)).astype(np.float32))
    code, _, message = quantsim("inspect", "w.npy", "--budget", "4.3")
    assert code == 2
    assert "only GGUF types are mixed where --formats names none" in message
    code, shown, _ = quantsim("inspect", "w.npy", "--budget", "4.3", "--formats", "mxfp4", "q8_0")
    assert code == 0
    assert "mxfp4" in shown


def test_a_full_disk_ends_with_4(quantsim, studies, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "fake.jsonl"))

    monkeypatch.setattr(runner, "save", full)
    code, _, message = quantsim("run", "--out", tmp_path)
    assert code == 4
    assert f"cannot write {tmp_path / 'fake.jsonl'}: No space left on device" in message


WAITING = FAKE.replace(
    "    # one row\n",
    """\
    import time
    from pathlib import Path
    reached = Path(__file__).with_name("reached")
    if i == 1 and not reached.exists():
        reached.touch()
        time.sleep(100)
""",
)
START = """
import signal
import sys
from pathlib import Path
from quantsim import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it starts in the background
from quantsim.lab import study
study.folder = lambda: Path(sys.argv[1])
cli.main(sys.argv[2:])
"""


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(quantsim, studies, tmp_path):
    (studies / "fake.py").write_text(WAITING)
    with subprocess.Popen([sys.executable, "-c", START, studies, "run", "--out", tmp_path], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        while not (studies / "reached").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        shown, message = process.communicate(timeout=60)
    assert (process.returncode, shown) == (130, "")
    assert message.endswith("interrupted: what is finished is kept, the same command goes on from there\n")
    assert "Traceback" not in message
    assert "fake.partial.jsonl" in files(tmp_path)
    code, shown, _ = quantsim("run", "--out", tmp_path)
    assert (code, shown[:21]) == (0, "fake: resumed, 3 rows")
    assert [r["x"] for r in load(tmp_path / "fake.jsonl")] == [0, 2, 4]


BUFFERED = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}


def test_a_reader_that_goes_away_is_no_error():
    """Also if everything waits in the buffer until the end."""
    with subprocess.Popen([sys.executable, "-m", "quantsim", "matrix", "--json"], env=BUFFERED,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_python_m_quantsim_is_the_command(quantsim):
    done = subprocess.run([sys.executable, "-m", "quantsim", "matrix", "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == quantsim("matrix", "--json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which fails like a full disk")
def test_a_stdout_that_is_full_ends_with_4():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "quantsim", "--help"]
        done = subprocess.run(command, env=BUFFERED, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, b"cannot write output: No space left" in done.stderr) == (4, True)
