"""The command line: data on stdout, progress and messages on stderr.

Exit codes: 0 fine, 1 a check failed, 2 usage, 3 bad input file, 4 output could not be written, 130 interrupted.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quantsim import checkpoints
from quantsim.cli import doctor, terminal
from quantsim.lab import claims, comparison, study
from quantsim.lab.comparison import Source
from quantsim.lab.matrix import document_matrix, report
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.rows import dumps, plain, replace_text
from quantsim.sweep import config as sweep_config
from quantsim.sweep import hosts
from quantsim.sweep import run as runner
from quantsim.sweep.estimate import estimate

app = tyro.extras.SubcommandApp()
Names = tyro.conf.Positional[tuple[str, ...]]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
_OUT = Path("paper_figures")
_NORMAL = Source()
_ALONE = hosts.Job()


class CheckFailedError(Exception):
    """A check that was asked for did not pass."""


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(plain(value), ensure_ascii=False, indent=1))


@app.command(name="list")
def list_studies(out: Path = _OUT, json: Flag = False) -> None:
    """The studies: name, question, and whether their rows are current.

    Args:
        out: folder of the results.
        json: print JSON.
    """
    stale = study.stale(out)
    state = {
        n: "missing" if study.stored_key(out, n) is None else "stale" if n in stale else "current"
        for n in study.names()
    }
    rows = [{"name": n, "state": state[n], "question": study.question(n)} for n in study.names()]
    if json:
        _print_json(rows)
    else:
        print(terminal.table(("study", "rows", "question"), [tuple(r.values()) for r in rows]))


@app.command
def run(names: Names = (), small: Flag = False, fresh: Flag = False, out: Path = _OUT) -> None:
    """Run studies, all by default: rows, provenance, figures and the ledger. Rows whose key matches are loaded.

    Args:
        names: studies to run.
        small: small sizes, into the folder small/ below the output.
        fresh: measure in any case, also what could be loaded.
        out: folder of the results.
    """
    wanted, folder = list(names) or study.names(), out / "small" if small else out
    for name in wanted:
        study.module(name)
    columns = TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in wanted:
            task = progress.add_task(name, total=None)
            outcome = study.run(
                name, folder, small=small, fresh=fresh,
                tick=lambda done, total, task=task: progress.update(task, completed=done, total=total),
            )  # fmt: skip
            progress.update(task, completed=1, total=1) if outcome.state == "loaded" else None
            how = "loaded (key matches)" if outcome.state == "loaded" else outcome.state
            print(
                f"{name}: {how}, {len(outcome.rows)} rows, {outcome.seconds:.1f} s -> {folder / name}.pdf .svg .png",
                flush=True,
            )
            if said := study.summary(name, outcome.rows):
                print(said, flush=True)
    entries = claims.ledger(study.settled(folder))
    replace_text(folder / "claims.json", claims.to_json(entries))
    replace_text(folder / "claims.md", claims.to_markdown(entries))


@app.command(name="claims")
def show_claims(check: Flag = False, json: Flag = False, out: Path = _OUT) -> None:
    """Every statement of the documents with its verdict.

    Args:
        check: recompute all verdicts from the rows and fail if the stored ledger, or the rows' keys, differ.
        json: print JSON.
        out: folder of the results.
    """
    entries = claims.ledger(study.settled(out))
    if check:
        _check_ledger(entries, out)
    if json:
        _print_json(entries)
        return
    cells = [(e["id"], e["verdict"], claims.number_text(e), e.get("study", ""), e["statement"]) for e in entries]
    print(terminal.table(("id", "verdict", "number", "study", "statement"), cells, last=max(24, Console().width - 58)))
    print(f"\n{claims.settled_count(entries)} of {len(entries)} statements settled; definitions with --json")


def _check_ledger(entries: list[dict[str, Any]], out: Path) -> None:
    wrong = [
        f"rows of {n} are missing or were measured by other code: run `quantsim run {n}`" for n in study.stale(out)
    ]
    stored = {"claims.json": claims.to_json(entries), "claims.md": claims.to_markdown(entries)}
    for file, text in stored.items():
        if not (out / file).is_file() or (out / file).read_text(encoding="utf-8") != text:
            wrong.append(f"{out / file} differs from what its rows give: run `quantsim run`")
    if wrong:
        raise CheckFailedError("; ".join(wrong))
    _say(f"ledger checked: {claims.settled_count(entries)} verdicts recomputed, 0 differ")


@app.command
def matrix(
    file: Annotated[Path | None, tyro.conf.Positional] = None, tensor: str | None = None, format: str = "int8:tensor",
    seed: int = 42, csv: Flag = False, json: Flag = False,
) -> None:  # fmt: skip
    """A matrix before, after, and its error, in the terminal; the documents' 16×32 example by default.

    Args:
        file: .npy or .safetensors; every tensor in it is reported.
        tensor: only the tensor of this name.
        format: spec of the quantizer.
        seed: seed of the documents' matrix, when there is no file.
        csv: print every weight, its code, and its error.
        json: print the statistics as JSON.
    """
    q = parse(format)
    named = checkpoints.weights(file, tensor) if file else [(f"numpy.random.seed({seed})", document_matrix(seed))]
    for name, w in named:
        if json:
            print(dumps({"tensor": name} | report(w, q)))
        elif csv:
            _print_csv(w, q)
        else:
            _print_maps(name, w, q, documented=file is None)


def _print_csv(w: np.ndarray, q: AbstractQuantizer) -> None:
    qw, out = q.quantize(w), csv.writer(sys.stdout)
    out.writerow(("index", "weight", "code", "after", "error"))
    after, codes = np.asarray(qw.dequantize()), np.asarray(qw.codes)
    for at in np.ndindex(w.shape):
        out.writerow((" ".join(map(str, at)), w[at], codes[at], after[at], after[at] - w[at]))


def _print_maps(name: str, w: np.ndarray, q: AbstractQuantizer, *, documented: bool) -> None:
    r = report(w, q)
    corner = (*(0,) * (w.ndim - 2), slice(16), slice(32))
    before, after = (np.atleast_2d(a)[corner] for a in (w, np.asarray(q.roundtrip(w))))
    shown = "" if before.size == w.size else f", its first {before.shape[0]}×{before.shape[1]} shown"
    print(f"{name}: {'×'.join(map(str, w.shape))}{shown}, {q}, {r['bits_per_weight']:.3g} bits per weight\n")
    largest = float(np.abs(before).max())
    print("before (ninths of the largest weight)\n" + terminal.digit_map(before, largest))
    print("\nafter\n" + terminal.digit_map(after, largest))
    top = r["max_abs"] or 1.0
    print(f"\n|error|, in fifths of the largest, {top:.6f}\n" + terminal.shade_map(np.abs(after - before), top))
    print("  ".join(f"{s} ≤ {(i + 1) / 5 * top:.2g}" for i, s in enumerate(terminal.SHADES)))
    scale = "none" if r["scale"] is None else f"{r['scale']:.6g}"
    print(f"\nscale {scale}  max |e| {r['max_abs']:.6g}  mean |e| {r['mean_abs']:.6g}  ‖e‖/‖w‖ {r['rel_rms']:.4%}")
    for b in r["bins"] if documented else ():
        print(f"  {b['above']:.3f} < |e| <= {b['up_to']:<5} {b['share']:7.2%}   the document says {b['stated']:.0%}")


@app.command
def compare(specs: Names, source: tyro.conf.OmitArgPrefixes[Source] = _NORMAL, json: Flag = False) -> None:
    """Quantizers side by side: true bits per weight and SQNR with its standard error.

    Synthetic arrays are drawn until every standard error is at most 0.02 dB (at most 4096 arrays).

    Args:
        specs: quantizers, for example bf16 int8:channel int4:block32:mse.
        source: where the weights come from.
        json: print JSON.
    """
    quantizers = [parse(s) for s in specs]
    if not quantizers:
        raise ValueError("name at least one quantizer, for example: quantsim compare int8:channel int4:block32")
    rows = list(comparison.compare(quantizers, source))
    if json:
        _print_json(rows)
        return
    named = ("tensor",) * bool(source.weights)
    cells = [tuple(r[n] for n in named) + _cells(r) for r in rows]
    print(terminal.table((*named, "spec", "bits", "SQNR dB", "± se", "predicted", "‖e‖/‖w‖"), cells))


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    places = {"bits_per_weight": 3, "sqnr_db": 3, "sqnr_db_se": 3, "predicted_sqnr_db": 3, "rel_rms": 5}
    shown = ("" if r.get(n) is None or not np.isfinite(r[n]) else f"{r[n]:.{d}f}" for n, d in places.items())
    return (r["spec"], *shown)


@app.command(name="sweep")
def run_sweep(
    config: tyro.conf.Positional[Path], out: Path | None = None, dry_run: Flag = False, json: Flag = False,
    job: tyro.conf.OmitArgPrefixes[hosts.Job] = _ALONE,
) -> None:  # fmt: skip
    """A grid of populations, shapes, seeds and quantizers; interrupted, the same command goes on where it stopped.

    Args:
        config: TOML file with populations, quantizers, weights, shapes, seeds, axes; the README has an example.
        out: folder of the results: parts, rows.jsonl and table.csv; by default one named after the file.
        dry_run: only say what would be measured, compiled and needed; runs one chunk of every program to find out.
        json: print JSON.
        job: where this process belongs.
    """
    grid, out = sweep_config.load(config), out or sweep_config.folder_of(config)
    hosts.connect(job)
    if dry_run:
        found = estimate(grid)
        if not jax.process_index():
            _print_json(asdict(found)) if json else print(found)
        return
    with hosts.quiet(), terminal.progress() as report:
        rows = runner.run(grid, out=out, report=report)
    if jax.process_index():
        return
    _say(f"{len(rows)} points, {rows.compiles} compiles, {rows.seconds:.1f} s -> {out / 'table.csv'}, rows.jsonl")
    if json:
        _print_json(rows)
        return
    header = ("population", "shape", "seed", "spec", "bits", "SQNR dB", "± se", "predicted", "‖e‖/‖w‖")
    cells = [(r["population"], "×".join(map(str, r["shape"])), r["seed"], *_cells(r)) for r in rows]
    print(terminal.table(header, cells))


@app.command(name="doctor")
def show_doctor(json: Flag = False) -> None:
    """Versions, devices, and an exactness self-test of this machine.

    Args:
        json: print JSON.
    """
    found = doctor.examine()
    if json:
        _print_json(found)
    else:
        print("  ".join(f"{k} {v}" for k, v in found["versions"].items()) + "\n" + "\n".join(found["devices"]))
        for what, n in found["mismatches"].items():
            print(f"{'FAIL' if n else 'ok  '} {what}: {n} mismatches")
    if any(found["mismatches"].values()):
        raise CheckFailedError("this machine does not compute exactly: its numbers cannot be compared")


def _drop_stdout() -> None:
    """What is still buffered goes nowhere, so that Python does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 16))
    try:
        try:
            app.cli(prog="quantsim", args=args)
        finally:
            sys.stdout.flush()  # here, where a failure still has an exit code
    except KeyboardInterrupt:
        _say("interrupted: what is finished is kept, the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:
        _drop_stdout()
    except (CheckFailedError, checkpoints.CheckpointError, sweep_config.ConfigError) as failure:
        _say(f"quantsim: {failure}")
        sys.exit(1 if isinstance(failure, CheckFailedError) else 3)
    except OSError as failure:
        where = failure.filename or "output"
        _drop_stdout() if failure.filename is None else None
        _say(f"quantsim: cannot write {where}: {failure.strerror or failure}; choose another folder with --out")
        sys.exit(4)
    except (ValueError, LookupError, OverflowError) as failure:
        _say(f"quantsim: {failure.args[0] if failure.args else failure}")
        sys.exit(2)
