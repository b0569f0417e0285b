"""Memory of an inspection: that of its programs and of what is looked at at a time, whatever the size of a tensor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import large_checkpoints as large

ROOT = Path(__file__).parent.parent
FORMATS = ("q8_0", "int8:channel", "nvfp4")
MOST = 500 * 2**20  # bytes

MEASURED = """
import json, sys
import quantsim as qs

def inspected(tensor):
    formats, select = json.loads(sys.argv[2]), qs_inspection.Selection(include=(tensor,))
    found = qs.inspect(sys.argv[1], formats, select=select)
    return found.tensors[0]["max_abs"], [row["rel_rms"] for row in found.errors]

from quantsim import inspection as qs_inspection
from tests.resident import most_resident
first = inspected("small")
before = most_resident()
second = [inspected(name) for name in sys.argv[3:]]
print(json.dumps({"first": first, "second": second, "before": before, "peak": most_resident()}))
"""


def measured(path, *tensors):
    command = [sys.executable, "-c", MEASURED, str(path), json.dumps(FORMATS), *tensors]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def sparse(path, rows):
    """A small tensor and a large one of the same kind, zeros but for the last weight of each."""
    header, at = {}, 0
    for name, count in (("small", 4), ("large", rows)):
        size = 4 * count * large.COLUMNS
        header[name] = large.made.facts("F32", (count, large.COLUMNS), at, at + size)
        at += size
    head = large.made.with_header(header)
    ends = [len(head) + facts["data_offsets"][1] for facts in header.values()]
    large.write(path, head, dict.fromkeys(ends, b"\0\0\x80\x3f"))
    return path


def check(found):
    assert found["first"][0] == 1
    for largest, _ in found["second"]:
        assert largest == 1
    # of what was held before, the programs of three formats among it, nothing grows with the tensor but two chunks of
    # reads for each of the threads, and sums of a thousand bytes for each row
    assert found["peak"] - found["before"] < MOST / 4
    assert found["peak"] < 2 * MOST  # jax itself and what compiles take half of it


def test_a_tensor_of_256_mib(tmp_path):
    check(measured(sparse(tmp_path / "w.safetensors", 2**10), "large"))


@pytest.mark.slow
def test_a_tensor_of_4_gib_and_a_file_of_20_gb(tmp_path):
    path = sparse(tmp_path / "w.safetensors", 2**16 + 2**14)
    assert path.stat().st_size > 20e9
    check(measured(path, "large"))
