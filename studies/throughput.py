"""How fast are generating, measuring and packing, beside NumPy, torch and what the memory can deliver?

M weights/s. All contenders of a comparison take turns in one process, A B C A B C …, on the same weights where weights
are given; the first round compiles and is not counted. Rates are those of median times, errors of ratios a bootstrap
over rounds. quantsim runs on all devices of JAX, torch on a device of that kind with its own threads, NumPy on one
thread, as it does; what NumPy is slow at it does for fewer weights. Given weights are 2^26, which no cache holds; drawn
weights come in the chunks of a sweep, buffers that rivals fill too. The limit is one read of 4 bytes a weight, at the
best rate of any contender. Scaling runs in processes of their own, whose peak of memory has nothing of torch in it.
Expected: full statistics are some thirty operations a weight and reach a tenth of the limit, as one fused loop of
torch.compile does; torch eager and NumPy write each intermediate to memory and are 10 and 25 times slower. Drawing is
bound by 20 rounds of threefry, 1.5 times as fast as torch's serial generator; 32 quantizers take the time of their
parts; time is linear in weights, memory constant, and two devices are nearly twice as fast as one.
Refuted, line by line, by a ratio out of bounds in the table that the study prints. (Wrong in three lines on two cores:
full statistics, nine of ours against five of torch.compile, come to 0.8 to 1.05 of its rate; two devices of one process
give 1.5, though two processes give 2; and 10^7 weights are too few chunks to hide what a sweep does once. On an H100
torch.compile reads at a sixth of the limit and XLA's row reductions at a tenth.)
"""

import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf, prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import linregress

from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import chunks, programs
from quantsim.sweep.totals import Totals

from . import _jobs, _rivals
from ._jobs import FULL, GGUF, SHAPE, SPECS, SUM, Contender

NORMAL, MANY, DEVICES = "generate normal", "generate + measure, 32", "generate + measure, 1; devices: {}"
OURS, PEAK, EXPONENT = "quantsim", "most weights: peak of memory, GB", "time ~ weights^a: a"


class Bound(NamedTuple):
    """Where a number has to lie; if it is a ratio of rates, of whose at which job."""

    name: str
    low: float
    high: float
    of: tuple[str, str] = ("", "")
    over: tuple[str, str] = ("", "")


BOUNDS = (
    Bound("full statistics: rate / torch.compile", 1, inf, (FULL, OURS), (FULL, "torch.compile")),
    Bound("full statistics: rate / torch eager", 10, inf, (FULL, OURS), (FULL, "torch")),
    Bound("full statistics: rate / NumPy + gguf", 25, inf, (FULL, OURS), (FULL, GGUF)),
    Bound("generate + measure, 32: time / sum of parts", 0, 1.25, (MANY, SUM), (MANY, OURS)),
    Bound("generate + measure, 32: rate / NumPy + gguf", 10, inf, (MANY, OURS), (MANY, GGUF)),
    Bound("normal: rate / torch", 1.5, inf, (NORMAL, OURS), (NORMAL, "torch")),
    Bound("normal: rate / NumPy", 3, inf, (NORMAL, OURS), (NORMAL, "NumPy")),
    Bound("student-t: rate / normal", 0.5, inf, ("generate student-t", OURS), (NORMAL, OURS)),
    Bound("Laplace: rate / normal", 0.5, inf, ("generate Laplace", OURS), (NORMAL, OURS)),
    Bound(PEAK, 0, 1),
    Bound(EXPONENT, 0.95, 1.05),
    Bound("two devices: rate / one", 1.8, inf, (DEVICES.format(2), OURS), (DEVICES.format(1), OURS)),
)


@dataclass(frozen=True)
class Config:
    """Weights: given, drawn, packed, of what NumPy is slow at, on several devices, in scaling; then what is done."""

    given: int = 2**26
    drawn: int = 2**24
    packed: int = 2**21
    fewer: int = 2**20
    spread: int = 5 * 10**7
    scaling: tuple[int, ...] = (10**7, 10**8, 10**9, 10**10)
    quantizers: tuple[int, ...] = (1, 8, 32)
    laws: tuple[str, ...] = ("normal", "student-t", "Laplace")
    types: tuple[str, ...] = ("q8_0", "q4_0", "q4_k", "q6_k")
    devices: tuple[int, ...] = (1, 2)
    compiled: bool = True  # torch.compile, too
    rounds: int = 7
    seed: int = 0
    code: str = hashlib.sha256(f"{inspect.getsource(_jobs)}{inspect.getsource(_rivals)}".encode()).hexdigest()[:16]

    @classmethod
    def small(cls) -> "Config":
        """Fewer of everything, and all in this process: no torch.compile, no scaling."""
        few = cls(given=2**20, drawn=2**19, packed=2**18, fewer=2**18, quantizers=(1, 2), rounds=2)
        return replace(few, laws=("normal",), types=("q8_0",), scaling=(), devices=(), compiled=False)


def measure(config: Config) -> Iterator[Cell]:
    """One cell a comparison."""
    yield "given", lambda: _compared(config, _jobs.given(config.given, config.seed, config.compiled))
    yield "drawn", lambda: _compared(config, _jobs.draws(config.drawn, config.laws))
    for number in config.quantizers:
        jobs = partial(_jobs.sweeps, config.drawn, config.fewer, number)
        yield f"{number} quantizers", lambda jobs=jobs: _compared(config, jobs())
    yield "packed", lambda: _compared(config, _jobs.packing(config.packed, config.types, config.seed))
    yield "scaling", partial(_over_weights, config)
    yield "devices", partial(_over_devices, config)


def _compared(config: Config, contenders: Iterable[Contender]) -> list[dict]:
    return _judged(config, _jobs.timed(list(contenders), config.rounds))


def _judged(config: Config, times: dict[Contender, np.ndarray]) -> list[dict]:
    """A row for each contender, and one for each ratio of those that are here."""
    rows = [_jobs.row(c, seconds, config.seed) for c, seconds in times.items()]
    known = {(c.job, c.name): seconds / c.weights for c, seconds in times.items()}
    for b in BOUNDS:
        if b.of in known and b.over in known:
            found = _jobs.ratio(known[b.over], known[b.of], config.seed)
            rows.append({"kind": "ratio", "name": b.name, **found, "rounds": config.rounds})
    return rows


# --- scaling --------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer each line of the standard input, a number of weights, by what sweeping so many takes."""
    for line in sys.stdin:
        print(json.dumps(swept(int(line))), flush=True)


def swept(weights: int) -> dict[str, Any]:
    """Seconds of a sweep with int8:block32, compiled before, and the peak of memory of this process so far."""
    cell = chunks.Cell(Normal(), SHAPE, 0, -(-weights // prod(SHAPE)))
    engine, totals = chunks.Engine([parse(SPECS[0])], programs.mesh_of(jax.devices())), Totals.of(1)
    jax.block_until_ready(engine.launch(cell, 0))
    start = time.perf_counter()
    for chunk in engine.chunks(cell):
        for array in chunks.unstacked(*chunk):
            totals.add(*array)
    return {"seconds": time.perf_counter() - start, "peak_gb": peak_gb(), "sqnr_db": totals.stats()[0].sqnr_db}


def peak_gb() -> float | None:
    """Most memory at any time: of the accelerator, or of this process, where the system is Linux and says so.

    Not getrusage: its ru_maxrss begins with that of the process that started this one.
    """
    if found := jax.devices()[0].memory_stats():  # None on CPU
        return found["peak_bytes_in_use"] / 1e9
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)


@contextmanager
def serving(devices: int) -> Iterator[Callable[[int], dict[str, Any]]]:
    """A process with so many devices that sweeps as many weights as it is asked to."""
    code = f"from quantsim import study; study.module('throughput').{serve.__name__}()"
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=pipe, stdout=pipe, text=True) as child:
        put, get = child.stdin, child.stdout

        def ask(weights: int) -> dict[str, Any]:
            assert get
            print(weights, file=put, flush=True)
            return json.loads(get.readline())

        yield ask


def _over_weights(config: Config) -> list[dict]:
    rows: list[dict] = []
    if not config.scaling:
        return rows
    with serving(jax.device_count()) as ask:
        for weights in sorted(config.scaling):
            found = [ask(weights) for _ in range(min(max(10**9 // weights, 1), config.rounds))]
            c = _jobs.ours("scaling", weights, serve)
            timed = _jobs.row(c, np.array([f["seconds"] for f in found]), config.seed)
            rows.append(timed | {"peak_gb": found[-1]["peak_gb"], "sqnr_db": found[-1]["sqnr_db"]})
    fit: Any = linregress(np.log10([r["weights"] for r in rows]), np.log10([r["seconds"] for r in rows]))
    exponent = {"kind": "ratio", "name": EXPONENT, "ratio": fit.slope, "ratio_se": fit.stderr}
    return [*rows, exponent, {"kind": "ratio", "name": PEAK, "ratio": rows[-1]["peak_gb"], "ratio_se": 0.0}]


def _over_devices(config: Config) -> list[dict]:
    if jax.default_backend() != "cpu":
        return [{"kind": "note", "text": "Scaling over devices is measured on CPU only."}]
    with ExitStack() as stack:
        asked = [stack.enter_context(serving(n)) for n in config.devices]
        found = [[ask(config.spread)["seconds"] for ask in asked] for _ in range(config.rounds)]
    jobs = [_jobs.ours(DEVICES.format(n), config.spread, serve) for n in config.devices]
    return _judged(config, {c: np.array(s) for c, s in zip(jobs, zip(*found, strict=True), strict=True)})


def limit(rows: Rows) -> float:
    """M weights/s of the fastest read by anyone."""
    return float(max(rows.where(kind="time", job="read").column("rate")))


def summary(rows: Rows) -> str:
    """The machine, its limit, every ratio against its bound, and what is missing."""
    timed, ratios = rows.where(kind="time"), rows.where(kind="ratio")
    copied = max(timed.where(job="copy").column("rate"))
    machine, sizes = " and ".join(timed.values("device")), "" if timed.where(job="scaling") else ", in small sizes"
    lines = [f"On {machine}, which reads {limit(rows) * 4e-3:.1f} and copies {copied * 8e-3:.1f} GB/s{sizes}:"]
    for b in BOUNDS:
        bound = f"{b.low:g} to {b.high:g}" if b.low and b.high < inf else f"≥ {b.low:g}" if b.low else f"≤ {b.high:g}"
        r = next((r for r in ratios.where(name=b.name) if r["ratio"] is not None), None)
        value = f"{r['ratio']:.2f} ± {r['ratio_se']:.2f}" if r else ""
        verdict = ("miss", "pass")[b.low <= r["ratio"] <= b.high] if r else "not measured"
        lines.append(f"  {b.name:<44} {value:>14}   {bound:<12}   {verdict}")
    absent = _rivals.missing(timed.column("contender"))
    return "\n".join([*lines, *rows.where(kind="note").values("text"), *([absent] if absent else [])])


STYLE = {  # contender: series and label
    OURS: (0, "quantsim"), "torch.compile": (1, "torch.compile"), "torch": (4, "torch eager"), "NumPy": (2, None),
    GGUF: (2, "NumPy (+ gguf)"),
}  # fmt: skip


def draw(rows: Rows) -> plotting.Figure:
    """Rates of all jobs under the limit; time against weights; time against quantizers, and of the parts alone."""
    fig, axes = plotting.mosaic("aaabb;aaacc", height=4.6)
    timed = rows.where(kind="time")
    _rates(axes["a"], timed, limit(rows))
    many = Rows(r for r in timed if r["job"].startswith(MANY.removesuffix("32")) and "devices" not in r["job"])
    for ax, panel, c in ((axes["b"], _scaling, timed.where(job="scaling")), (axes["c"], _quantizers, many)):
        panel(ax, c) if c else ax.text(0.5, 0.5, "not measured here", ha="center", fontsize=6.5)
    fig.legend(*axes["a"].get_legend_handles_labels(), loc="outside upper center", ncol=6, columnspacing=1.2)
    plotting.letter(axes[k] for k in "abc")
    return fig


def _rates(ax: plotting.Axes, timed: Rows, most: float) -> None:
    """A line a job, a marker a contender with its quartiles; at the right, quantsim over the best of the others."""
    jobs = [j for j in timed.values("job") if j not in ("read", "copy", "scaling")]
    beside = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 6.5}
    for name, (series, label) in STYLE.items():
        if c := Rows(r for r in timed.where(contender=name) if r["job"] in jobs):
            rate, weights, down = c.column("rate"), c.column("weights"), [jobs.index(r["job"]) for r in c]
            bars = [abs(weights / c.column(q) / 1e6 - rate) for q in ("seconds_q3", "seconds_q1")]
            style = {"color": plotting.COLORS[series], "marker": plotting.MARKERS[series], "ls": "none", "ms": 4}
            ax.errorbar(rate, down, xerr=bars, label=label, zorder=4 - series / 8, **style)
    for at, job in enumerate(jobs):
        rates = {r["contender"]: r["rate"] for r in timed.where(job=job) if r["contender"] != SUM}
        if rivals := [rate for name, rate in rates.items() if name != OURS]:
            ax.text(1.01, at, f"{rates[OURS] / max(rivals):.2g} ×", **beside)
    ax.text(1.01, -0.9, "quantsim /\nbest other", **beside)
    ax.text(0.01, -0.9, "\n".join(timed.values("device")), **beside)
    ax.axvline(most, color="0.25", ls="--", lw=0.9, label=f"one read, {most * 4e-3:.3g} GB/s")
    ax.axvspan(most, 1e9, color="0.93", lw=0, zorder=0)
    ax.set(xscale="log", xlabel="M weights/s", ylim=(len(jobs) - 0.5, -1.6), xlim=(None, 2 * most))
    ax.set_yticks(range(len(jobs)), jobs)


def _scaling(ax: plotting.Axes, c: Rows) -> None:
    ax.set(xlabel="weights, one quantizer", ylabel="time (s)")
    x, seconds, last = c.column("weights"), c.column("seconds"), c[-1]
    plotting.prediction(ax, x, seconds[-1] * x / x[-1], label="slope 1")
    plotting.curve(ax, x, seconds, se=c.column("seconds_se"), linestyle="none", label=OURS)
    memory = f"{last['peak_gb']:.2f} GB at most" if last["peak_gb"] else ""
    text = f"$10^{{{np.log10(x[-1]):.0f}}}$ weights:\n{last['seconds']:.3g} s\n{memory}"
    ax.text(0.97, 0.05, text, transform=ax.transAxes, ha="right", fontsize=6.5)
    ax.set(xscale="log", yscale="log")
    ax.legend(loc="upper left")


def _quantizers(ax: plotting.Axes, timed: Rows) -> None:
    jobs = timed.values("job")
    numbers = [int(j.split()[-1]) for j in jobs]

    def column(name: str) -> np.ndarray:
        found = [timed.where(job=j, contender=name) for j in jobs]
        return np.array([1e9 * c[0]["seconds"] / c[0]["weights"] if c else np.nan for c in found])

    for name in (GGUF, OURS):
        series, label = STYLE[name]
        plotting.curve(ax, numbers, column(name), series=series, label=label)
    plotting.prediction(ax, numbers, column(SUM), label="sum of parts")
    ax.set(xscale="log", yscale="log", xlabel="quantizers of one draw", ylabel="time a weight (ns)")
    ax.set_ylim(top=20 * np.nanmax([column(OURS), column(GGUF)]))
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.legend(loc="upper left")


CLAIMS = ()
