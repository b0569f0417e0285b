"""Ten thousand damaged files: each is read, or refused by name, within a second, and all of them within 64 MiB."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import checkpoint_files as made
from tests import damaged_checkpoints as damage

ROOT = Path(__file__).parent.parent
MUTATIONS = 2000


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What became of the files of each kind; a process that crashes, or raises anything else, fails every test."""
    folder = tmp_path_factory.mktemp("damaged")
    command = [sys.executable, "-m", "tests.damaged_checkpoints", str(folder), str(MUTATIONS)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout)


@pytest.mark.parametrize("kind", damage.FORMATS)
def test_a_damaged_file_is_read_or_refused_by_name_within_bounds(ends, kind):
    end = ends[kind]
    assert end["tensors"] == {"shards": 3, "npy": 1, "safetensors": 6}.get(kind, 5), "it was right before"
    assert end["read"] + end["refused"] == MUTATIONS
    assert end["unnamed"] == []
    assert end["seconds"] < 1
    assert end["bytes"] < 64 * 2**20
    assert min(end["read"], end["refused"]) > MUTATIONS // 20, "damage that is never noticed, or always, tests little"


def test_there_are_ten_thousand_and_they_differ():
    assert len(damage.FORMATS) * MUTATIONS >= 10_000
    rng = np.random.default_rng(0)
    for make in damage.FORMATS.values():
        assert len({damage.damaged(make(), rng) for _ in range(200)}) > 180


def test_the_bound_of_memory_is_one(tmp_path):
    """In the process that reads damaged files, memory beyond it cannot be had."""
    code = (
        "import numpy as np; from tests import damaged_checkpoints as d; d.bound_memory()\n"
        "try: np.ones(2 * d.MOST_ADDRESSED, np.uint8)\nexcept MemoryError: print('bounded')"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "bounded"


def test_what_is_damaged_is_otherwise_whole(tmp_path):
    for kind, make in damage.FORMATS.items():
        files = make()
        folder = made.filled(tmp_path / kind, files)
        assert damage.outcome(folder if len(files) > 1 else folder / next(iter(files))) == ""
