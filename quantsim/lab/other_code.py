"""Cells of a study as the code of another checkout measures them: on this machine, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_SCRIPT = """
import json, sys
from quantsim.lab import keys, study
from quantsim.rows import dumps, plain

name, wanted = sys.argv[1], json.loads(sys.argv[2])
config = study.config_of(name, small=False)
found = {cell: [plain(row) for row in compute()] for cell, compute in study.cells(name, config) if cell in wanted}
print(dumps({"key": keys.of_rows(name, config), "cells": found}))
"""


class OtherCode(NamedTuple):
    """What another checkout says of a study: the key under which it measures rows, and the rows of some cells."""

    key: str
    cells: dict[str, list[dict[str, Any]]]


def rows_by(checkout: Path, name: str, cells: Sequence[str]) -> OtherCode:
    """Rows of these cells by the code of a checkout, run by this Python with this environment.

    Raises:
        ValueError: if there is no checkout, or its code raises.
    """
    if not (checkout / "quantsim" / "lab").is_dir():
        raise ValueError(f"{checkout} is no checkout of quantsim: make one with `git worktree add {checkout} COMMIT`")
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, name, json.dumps(list(cells))],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(f"the code in {checkout} does not measure {name}: {last}")
    said = json.loads(ran.stdout.splitlines()[-1])
    return OtherCode(said["key"], said["cells"])
