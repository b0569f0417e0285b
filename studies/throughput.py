"""How fast are generating, measuring, packing and unpacking, beside NumPy, torch and what the memory can deliver?

M weights/s. All contenders of a comparison take turns in one process, A B C A B C …, on the same weights where weights
are given; the first round compiles and is not counted. Rates are those of median times, errors of ratios a bootstrap
over rounds. quantsim does what its public calls do (``weight_error``, ``sample``, ``sweep.measure``, ``gguf.pack``), on
all cores, torch on its own threads, NumPy and C (the quantizers of ggml) on one thread, as they do; what NumPy is slow
at it does for fewer weights.
Given weights are 2^26, which no cache holds; drawn weights come in the chunks of a sweep, buffers that rivals fill too.
The limit is one read of 4 bytes a weight, at the best rate of any contender; for unpacking, of random bytes of every
GGUF type, it is a copy of the weights. Scaling runs in processes of their own, whose peak of memory has nothing of
torch in it; so does GPTQ of a layer, in a process for each contender (all of them have imported JAX), all under one
convention.
Expected: full statistics are some thirty operations a weight, in cache, and 1.2 times as fast as the five of a fused
loop of torch.compile; torch eager and NumPy write each intermediate to memory, 10 and 25 times slower. Drawing is
bound by 20 rounds of threefry, 2.2 times as fast as torch's serial generator; 32 quantizers take the time of their
parts; time is linear in weights, memory constant, and two cores are nearly twice as fast as one. GPTQ as one program
takes a quarter of the time of loops in torch or JAX that launch some ten operations a column, and less than 2 GB.
Packing a K-quant searches thousands of blocks at once on all cores, at three times the rate of C for q2_k and twice for
q3_k, whose search waits for itself.
Unpacking computes a chunk in cache and copies it from there: 1,000 M weights/s, 8 times NumPy with the gguf package.
Refuted, line by line, by a ratio that lies out of its bound by more than three of its standard errors, in the table
that the study prints. (On an H100 torch.compile reads at a sixth of the limit and
XLA's row reductions at a tenth.)
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from scipy.stats import linregress

from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate
from quantsim.rows import Rows

from . import _bounds, _gptq, _inspected, _jobs, _rivals, _served, _timing, _unpacking
from ._bounds import BOUNDS, EXPONENT, LAYER, MANY, PEAK, SMALLER_LAYER, on_cores
from ._jobs import COPY, READ, SUM_OF_PARTS, generate_and_measure
from ._rivals import C_REFERENCE, NUMPY_GGUF
from ._timing import OURS, Contender, Seconds

MEASURES_TIME = True
SCALING, LAYERS = "scaling", "GPTQ"


@dataclass(frozen=True)
class Config:
    """Weights: given, drawn or unpacked, packed, of what NumPy is slow at, in a file, spread, scaled; what is done."""

    given: int = 2**26
    drawn: int = 2**24
    packed: int = 2**21
    fewer: int = 2**20
    inspected: int = 2**22
    spread: int = 5 * 10**7
    scaling: tuple[int, ...] = (10**7, 10**8, 10**9, 10**10)
    quantizers: tuple[int, ...] = (1, 8, MANY)
    laws: tuple[str, ...] = ("normal", "student-t", "Laplace")
    types: tuple[str, ...] = _jobs.PACKED
    unpacked: tuple[str, ...] = _unpacking.TYPES
    cores: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (2, 2))  # and devices that JAX makes of them
    layers: tuple[int, ...] = (SMALLER_LAYER, LAYER)  # for GPTQ: inputs, outputs and tokens
    layers_of_qwix: int = SMALLER_LAYER  # and not larger ones, which take it many minutes
    compiled: bool = True  # torch.compile, too
    rounds: int = 7
    rounds_of_layers: int = 2
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer of everything, and all in this process: no torch.compile, no scaling."""
        few = cls(given=2**20, drawn=2**19, packed=2**18, fewer=2**18, inspected=2**19, quantizers=(1, 2), rounds=2)
        few = replace(few, laws=("normal",), types=("q8_0",), unpacked=("q8_0", "q4_k", "iq2_xxs"))
        return replace(few, scaling=(), cores=(), layers=(256,), compiled=False)


# --- measurement ----------------------------------------------------------------------------------------------------


def measure(config: Config) -> Iterator[Cell]:
    """One cell a comparison."""
    yield "given", partial(_compared, config, partial(_jobs.given, compiled=config.compiled), config.given, config.seed)
    yield "drawn", partial(_compared, config, _jobs.draws, config.drawn, config.laws)
    for number in config.quantizers:
        yield f"{number} quantizers", partial(_compared, config, _jobs.sweeps, config.drawn, config.fewer, number)
    yield "packed", partial(_compared, config, _jobs.packing, config.packed, config.types, config.seed)
    yield "unpacked", partial(_compared, config, _unpacking.unpacking, config.drawn, config.unpacked, config.seed)
    yield "inspected", partial(_of_a_file, config)
    yield SCALING, partial(_over_weights, config)
    yield "cores", partial(_over_cores, config)
    yield LAYERS, partial(_of_layers, config)


def _compared(config: Config, job: Callable[..., Iterable[Contender]], *arguments: Any) -> list[dict]:
    """Rows of the contenders of a job, who are made here: arrays live as long as their comparison."""
    return _rows(config, _timing.timed(list(job(*arguments)), config.rounds))


def _of_a_file(config: Config) -> list[dict]:
    """Rows of those who inspect one file."""
    with TemporaryDirectory() as folder:
        return _compared(config, _inspected.inspecting, Path(folder), config.inspected, config.seed)


def _rows(config: Config, times: dict[Contender, Seconds]) -> list[dict]:
    """A row for each contender, and one for each ratio of those that are here."""
    rows = [_timing.row(contender, seconds, config.seed) for contender, seconds in times.items()]
    rates = [_bounds.ratio_row(name, rate) for name, rate in _unpacking.rates(rows)]
    return [*rows, *_bounds.ratio_rows(times, config.seed), *rates]


def _over_weights(config: Config) -> list[dict]:
    """Time and peak of memory of ever more weights, and the exponent of their power law."""
    if not config.scaling:
        return []
    rows: list[dict] = []
    with _served.serving() as ask:
        for weights in sorted(config.scaling):
            repeats = min(max(10**9 // weights, 1), config.rounds)
            found = [ask(weights) for _ in range(repeats)]
            contender = _timing.by_quantsim(SCALING, weights, _served.serve)
            row = _timing.row(contender, np.array([f["seconds"] for f in found]), config.seed)
            rows.append(row | {"peak_gb": found[-1]["peak_gb"], "sqnr_db": found[-1]["sqnr_db"]})
    fit: Any = linregress(np.log10([r["weights"] for r in rows]), np.log10([r["seconds"] for r in rows]))
    exponent = _bounds.ratio_row(EXPONENT, Estimate(fit.slope, fit.stderr))
    return [*rows, exponent, _bounds.ratio_row(PEAK, Estimate(rows[-1]["peak_gb"]))]


def _over_cores(config: Config) -> list[dict]:
    """One sweep on one core and on several, of which JAX makes one device or several, in processes that take turns."""
    if jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return [{"kind": "note", "text": "Scaling over cores is measured on CPUs of Linux only."}]
    if not config.cores:
        return []
    with ExitStack() as stack:
        asks = [stack.enter_context(_served.serving(*those)) for those in config.cores]
        rounds = [[ask(config.spread)["seconds"] for ask in asks] for _ in range(config.rounds)]
    contenders = [_timing.by_quantsim(on_cores(*those), config.spread, _served.serve) for those in config.cores]
    return _rows(config, dict(zip(contenders, np.array(rounds).T, strict=True)))


def _of_layers(config: Config) -> list[dict]:
    """GPTQ of layers by all that are installed: seconds, peaks of memory, and by how much outputs err."""
    if jax.default_backend() != "cpu":
        return [{"kind": "note", "text": "GPTQ is timed on CPU only."}]
    rows: list[dict] = []
    for size in config.layers:
        names = [name for name in _gptq.present() if name != _gptq.QWIX or size <= config.layers_of_qwix]
        times, more = _gptq.timed(size, names, config.rounds_of_layers)
        found: list[dict[str, Any]] = [
            _timing.row(contender, seconds, config.seed) | {"kind": LAYERS} | more[contender]
            for contender, seconds in times.items()
        ]
        rows += [*found, *_bounds.ratio_rows(times, config.seed)]
        ours, job = found[0], _gptq.job(size)
        rows.append(_bounds.ratio_row(_bounds.seconds_of(job), Estimate(ours["seconds"], ours["seconds_se"])))
        rows.append(_bounds.ratio_row(_bounds.peak_of(job), Estimate(ours["peak_gb"])))
    return rows


# --- what is printed ------------------------------------------------------------------------------------------------


def limit(rows: Rows) -> float:
    """M weights/s of the fastest read by anyone."""
    return float(max(rows.where(kind="time", job=READ).column("rate")))


def summary(rows: Rows) -> str:
    """The machine, its limit, every ratio against its bound, and what is missing."""
    timed = rows.where(kind="time")
    machine = " and ".join(timed.values("device"))
    read = limit(rows) * 4e-3  # GB/s: 4 bytes a weight
    copied = max(timed.where(job=COPY).column("rate")) * 8e-3  # each is read and written
    sizes = "" if timed.where(job=SCALING) else ", in small sizes"
    lines = [f"On {machine}, which reads {read:.1f} and copies {copied:.1f} GB/s{sizes}:"]
    lines += [_bounds.line(bound, rows) for bound in BOUNDS]
    contenders = [*timed.column("contender"), *rows.where(kind=LAYERS).column("contender")]
    absent = _rivals.missing(contenders, among_layers=bool(rows.where(kind=LAYERS)))
    return "\n".join([*lines, *rows.where(kind="note").values("text"), *([absent] if absent else [])])


# --- figure ---------------------------------------------------------------------------------------------------------

STYLES = {
    OURS: plotting.Style(plotting.BLUE, "o", "quantsim"),
    "torch.compile": plotting.Style(plotting.VERMILION, "s", "torch.compile"),
    "torch": plotting.Style(plotting.ORANGE, "v", "torch eager"),
    "NumPy": plotting.Style(plotting.GREEN, "^"),
    NUMPY_GGUF: plotting.Style(plotting.GREEN, "^", "NumPy (+ gguf)"),
    C_REFERENCE: plotting.Style(plotting.PURPLE, "D", "C, one thread"),
}
STYLES_OF_LAYERS = {
    OURS: STYLES[OURS],
    _gptq.NEURAL_COMPRESSOR: plotting.Style(plotting.ORANGE, "v", "neural-compressor (torch)"),
    _gptq.QWIX: plotting.Style(plotting.PURPLE, "D", "qwix (JAX)"),
}


def draw(rows: Rows) -> plotting.Figure:
    """Rates of jobs under the limit; time against weights; against quantizers, and of the parts; of GPTQ; unpacking."""
    fig, axes = plotting.mosaic("aaabb;aaacc;aaadd;eeeee", height=8.0)
    timed = rows.where(kind="time")
    rates(axes["a"], timed, limit(rows))
    over_weights(axes["b"], timed.where(job=SCALING))
    over_quantizers(axes["c"], timed)
    of_layers(axes["d"], rows.where(kind=LAYERS))
    _unpacking.draw(axes["e"], timed, STYLES, max(timed.where(job=COPY).column("rate")))
    fig.legend(*axes["a"].get_legend_handles_labels(), loc="outside upper center", ncol=4, columnspacing=1.2)
    plotting.letter(axes[k] for k in "abcde")
    return fig


def rates(ax: plotting.Axes, timed: Rows, most: float) -> None:
    """A line a job, a marker a contender with its quartiles; at the right, quantsim over the best of the others."""
    jobs = [j for j in timed.values("job") if j not in (READ, COPY, SCALING) and not _unpacking.is_unpacking(j)]
    for order, (name, style) in enumerate(STYLES.items()):
        if found := Rows(r for r in timed.where(contender=name) if r["job"] in jobs):
            _rates_of(ax, found, [jobs.index(r["job"]) for r in found], style, zorder=4 - order / 8)
    beside = {"transform": ax.get_yaxis_transform(), "va": "center"}
    for place, job in enumerate(jobs):
        of_job = {r["contender"]: r["rate"] for r in timed.where(job=job) if r["contender"] != SUM_OF_PARTS}
        others = [rate for name, rate in of_job.items() if name != OURS]
        if others:
            plotting.note(ax, 1.01, place, f"{of_job[OURS] / max(others):.2g} ×", **beside)
    plotting.note(ax, 1.01, -0.9, "quantsim /\nbest other", **beside)
    plotting.note(ax, 0.01, -0.9, "\n".join(timed.values("device")), **beside)
    ax.axvline(most, color="0.25", ls="--", lw=0.9, label=f"one read, {most * 4e-3:.3g} GB/s")
    ax.axvspan(most, 1e9, color="0.93", lw=0, zorder=0)
    ax.set(xscale="log", xlabel="M weights/s", ylim=(len(jobs) - 0.5, -1.6), xlim=(None, 2 * most))
    one = f"{generate_and_measure(1)}; "
    ax.set_yticks(range(len(jobs)), [job.replace(one, "sweep, ") for job in jobs])


def _rates_of(ax: plotting.Axes, found: Rows, places: list[int], style: plotting.Style, zorder: float) -> None:
    rate, weights = found.column("rate"), found.column("weights")
    slow, fast = (abs(weights / found.column(c) / 1e6 - rate) for c in ("seconds_q3", "seconds_q1"))
    look: dict[str, Any] = {"color": style.color, "marker": style.marker, "ls": "none", "ms": 4, "zorder": zorder}
    ax.errorbar(rate, places, xerr=[slow, fast], label=style.label, **look)


def over_weights(ax: plotting.Axes, found: Rows) -> None:
    """Time of a sweep of one quantizer against the number of weights, beside a line of slope 1."""
    ax.set(xlabel="weights, one quantizer", ylabel="time (s)")
    if not found:
        _not_measured(ax)
        return
    weights, seconds, last = found.column("weights"), found.column("seconds"), found[-1]
    plotting.prediction(ax, weights, seconds[-1] * weights / weights[-1], label="slope 1")
    plotting.curve(ax, weights, seconds, se=found.column("seconds_se"), linestyle="none", series=STYLES[OURS])
    memory = f"{last['peak_gb']:.2f} GB at most" if last["peak_gb"] else ""
    text = f"$10^{{{np.log10(weights[-1]):.0f}}}$ weights:\n{last['seconds']:.3g} s\n{memory}"
    plotting.note(ax, 0.97, 0.05, text, transform=ax.transAxes, ha="right")
    ax.set(xscale="log", yscale="log")
    ax.legend(loc="upper left")


def over_quantizers(ax: plotting.Axes, timed: Rows) -> None:
    """Time of a weight against the number of quantizers that measure it, beside NumPy and the sum of the parts."""
    named = {generate_and_measure(n): n for n in range(1, len(_jobs.SPECS) + 1)}
    numbers = [named[job] for job in timed.values("job") if job in named]
    if not numbers:
        _not_measured(ax)
        return

    def nanoseconds(contender: str) -> np.ndarray:
        found = [timed.where(job=generate_and_measure(n), contender=contender) for n in numbers]
        return np.array([1e9 * c[0]["seconds"] / c[0]["weights"] if c else np.nan for c in found])

    for name in (NUMPY_GGUF, OURS):
        plotting.curve(ax, numbers, nanoseconds(name), series=STYLES[name])
    plotting.prediction(ax, numbers, nanoseconds(SUM_OF_PARTS), label="sum of parts")
    ax.set(xscale="log", yscale="log", xlabel="quantizers of one draw", ylabel="time a weight (ns)")
    ax.set_ylim(top=20 * np.nanmax([nanoseconds(OURS), nanoseconds(NUMPY_GGUF)]))
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.legend(loc="upper left")


def of_layers(ax: plotting.Axes, found: Rows) -> None:
    """Time of GPTQ against the size of the layer; at each contender's largest, the time and the peak of memory."""
    ax.set(xlabel="GPTQ: size of the layer", ylabel="time (s)")
    if not found:
        _not_measured(ax)
        return
    sizes, seconds = found.values("size"), found.column("seconds")
    for name, style in STYLES_OF_LAYERS.items():
        if of_name := found.where(contender=name):
            se = of_name.column("seconds_se")
            plotting.curve(ax, of_name.column("size"), of_name.column("seconds"), se=se, series=style)
            slowest = max(row["seconds"] for row in found.where(size=of_name[-1]["size"]))
            _taken(ax, of_name[-1], style.color, above=of_name[-1]["seconds"] == slowest)
    ax.set(xscale="log", yscale="log", ylim=(min(seconds) / 8, 3000 * max(seconds)))
    ax.set_xlim(min(sizes) / 2.2, 2.2 * max(sizes))
    ax.set_xticks(sizes, [f"{size}²" for size in sizes])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.legend(loc="upper left")


def _taken(ax: plotting.Axes, row: dict[str, Any], color: str, *, above: bool) -> None:
    """Time and memory in words, over the marker, or under it and the line that leads to it."""
    memory = f", {row['peak_gb']:.2g} GB" if row["peak_gb"] else ""
    look: dict[str, Any] = {"va": "bottom" if above else "top", "ha": "center", "color": color}
    at = row["size"], row["seconds"] * (1.6 if above else 1 / 4)
    plotting.note(ax, *at, f"{row['seconds']:.3g} s{memory}", **look)


def _not_measured(ax: plotting.Axes) -> None:
    plotting.note(ax, 0.5, 0.5, "not measured here", ha="center", transform=ax.transAxes)


CLAIMS = ()
