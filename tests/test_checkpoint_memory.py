"""Memory: what is read of 20 GB is what is asked for, and nothing else of it is kept."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quantsim.checkpoints import decoding, open_checkpoint
from quantsim.checkpoints.files import Bytes
from tests import checkpoint_files as made
from tests import large_checkpoints as large

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    command = [sys.executable, "-m", "tests.large_checkpoints", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
def test_a_part_of_20_gb_takes_the_memory_of_the_part(found, ending):
    """A chunk of float32 is 16 MB: two of them, and the pieces that are decoded at once."""
    assert found[ending]["size"] > 20e9
    assert found[ending]["disk"] < 2**20
    assert found[ending]["growth"] < 4 * 4 * large.CHUNK
    for total, last, stored in found[ending]["sums"].values():
        assert (total, last, stored) == (1.0, 1.0, True)


def test_no_byte_is_read_that_was_not_asked_for(tmp_path, monkeypatch):
    read_into, ranges = Bytes.read_into, []

    def noted(self, start, found):
        ranges.append((start, start + found.nbytes))
        read_into(self, start, found)

    monkeypatch.setattr(Bytes, "read_into", noted)
    monkeypatch.setattr(decoding, "PIECE", 64)
    cases = {"F32": (4, 1), "F16": (2, 1), "F8_E5M2": (1, 1), "F4": (1, 2)}
    for dtype, (nbytes, block) in cases.items():
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(made.safetensors({"w": (dtype, (64, 64), bytes(64 * 64 // block * nbytes))}))
        checkpoint = open_checkpoint(path)
        (entry,) = checkpoint.entries
        assert not ranges
        checkpoint.weights(entry, 100, 600)
        begin = entry.start + 100 // block * nbytes
        assert (ranges[0][0], ranges[-1][1]) == (begin, begin + 600 // block * nbytes)
        assert all(one[1] == other[0] for one, other in pairwise(ranges))
        ranges.clear()


def test_scales_are_read_of_the_rows_that_are_asked_for(tmp_path, monkeypatch):
    read_into, counts = Bytes.read_into, []

    def noted(self, start, found):
        counts.append(found.nbytes)
        read_into(self, start, found)

    path = tmp_path / "w.safetensors"
    scales = made.f32(np.ones((64, 4)))
    path.write_bytes(made.safetensors({"w": ("F8_E4M3", (64, 128), bytes(64 * 128)), "w_scale": scales}))
    checkpoint = open_checkpoint(path)
    monkeypatch.setattr(Bytes, "read_into", noted)
    checkpoint.weights(checkpoint.entries[0], 10 * 128, 3 * 128)
    assert counts == [3 * 128, 3 * 4 * 4]
