"""The command ``sweep``: a grid in a file becomes a folder of results."""

from dataclasses import asdict
from pathlib import Path

import jax
import tyro

from quantsim.cli import terminal
from quantsim.cli.terminal import Flag
from quantsim.cli.weights import METRICS, metrics, with_exact
from quantsim.sweep import config as sweep_config
from quantsim.sweep import hosts
from quantsim.sweep import run as runner
from quantsim.sweep.estimate import estimate
from quantsim.sweep.plan import Plan

_ALONE = hosts.Job()


def run(
    config: tyro.conf.Positional[Path],
    out: Path | None = None,
    dry_run: Flag = False,
    json: Flag = False,
    job: tyro.conf.OmitArgPrefixes[hosts.Job] = _ALONE,
) -> None:
    """A grid of populations, shapes, seeds and quantizers; interrupted, the same command goes on where it stopped.

    Args:
        config: TOML file with populations, quantizers, weights, shapes, seeds, axes; docs/sweeps.md has an example.
        out: folder of the results: parts, rows.jsonl and table.csv; by default one named after the file.
        dry_run: only say what would be measured, compiled and needed; runs one chunk of every program to find out.
        json: print JSON.
        job: where this process belongs.
    """
    grid = sweep_config.load(config)
    hosts.connect(job)
    if dry_run:
        _print_estimate(grid, json=json)
    else:
        _print_rows(grid, out or sweep_config.folder_of(config), json=json)


def _print_estimate(grid: Plan, *, json: bool) -> None:
    found = estimate(grid)
    if not jax.process_index():
        print(terminal.json_text(asdict(found)) if json else found)


def _print_rows(grid: Plan, out: Path, *, json: bool) -> None:
    with hosts.quiet(), terminal.progress() as report:
        rows = runner.run(grid, out=out, report=report)
    if jax.process_index():
        return
    what = f"{len(rows)} points, {rows.compiles} compiles, {rows.seconds:.1f} s"
    terminal.say(f"{what} -> {out / 'table.csv'}, rows.jsonl")
    if json:
        print(terminal.json_text([with_exact(r) for r in rows]))
        return
    cells = [(r["population"], "×".join(map(str, r["shape"])), r["seed"], r["spec"], *metrics(r)) for r in rows]
    print(terminal.table(("population", "shape", "seed", "spec", *METRICS), cells))
