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
Refuted, line by line, by a ratio that lies out of its bound by more than three of its standard errors, in the table
that the study prints. (Wrong on two cores: two devices of one process give 1.5, though two processes give 2; and 10^7
weights are too few chunks to hide what a sweep does once. On an H100 torch.compile reads at a sixth of the limit and
XLA's row reductions at a tenth.)
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from scipy.stats import linregress

from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.measure.ratios import CLEARLY, Estimate
from quantsim.rows import Rows

from . import _jobs, _rivals, _served, _timing
from ._jobs import COPY, FULL_STATISTICS, NUMPY_GGUF, READ, SUM_OF_PARTS, generate, generate_and_measure
from ._timing import OURS, Contender, Seconds

MEASURES_TIME = True
SCALING = "scaling"
MANY = 32  # quantizers of one draw, in the bounds
PEAK, EXPONENT = "most weights: peak of memory, GB", "time ~ weights^a: a"

#: A job and who does it.
Turn: TypeAlias = tuple[str, str]
Judgement: TypeAlias = Literal["met", "missed", "within its error", "not measured"]


def on_devices(devices: int) -> str:
    """Name of the job that draws and measures on so many devices."""
    return f"generate + measure, 1; devices: {devices}"


@dataclass(frozen=True)
class Bound:
    """Where a number has to lie; a ratio of rates names the job and the contender of either rate."""

    name: str
    low: float = 0.0
    high: float = inf
    of: Turn | None = None
    over: Turn | None = None

    def judge(self, found: Estimate) -> Judgement:
        """Met or missed if the number is off the bound by more than its error, so that noise changes no judgement."""
        if found.value - CLEARLY * found.se >= self.low and found.value + CLEARLY * found.se <= self.high:
            return "met"
        beyond = found.value + CLEARLY * found.se < self.low or found.value - CLEARLY * found.se > self.high
        return "missed" if beyond else "within its error"

    def __str__(self) -> str:
        """The bound as it is printed."""
        if self.high == inf:
            return f"≥ {self.low:g}"
        return f"{self.low:g} to {self.high:g}" if self.low else f"≤ {self.high:g}"


STATISTICS, NORMAL, SWEEP = (FULL_STATISTICS, OURS), (generate("normal"), OURS), (generate_and_measure(MANY), OURS)
BOUNDS = (
    Bound("full statistics: rate / torch.compile", 1.0, of=STATISTICS, over=(FULL_STATISTICS, "torch.compile")),
    Bound("full statistics: rate / torch eager", 10.0, of=STATISTICS, over=(FULL_STATISTICS, "torch")),
    Bound("full statistics: rate / NumPy + gguf", 25.0, of=STATISTICS, over=(FULL_STATISTICS, NUMPY_GGUF)),
    Bound(f"generate + measure, {MANY}: time / sum of parts", 0.0, 1.25, (SWEEP[0], SUM_OF_PARTS), SWEEP),
    Bound(f"generate + measure, {MANY}: rate / NumPy + gguf", 10.0, of=SWEEP, over=(SWEEP[0], NUMPY_GGUF)),
    Bound("normal: rate / torch", 1.5, of=NORMAL, over=(NORMAL[0], "torch")),
    Bound("normal: rate / NumPy", 3.0, of=NORMAL, over=(NORMAL[0], "NumPy")),
    Bound("student-t: rate / normal", 0.5, of=(generate("student-t"), OURS), over=NORMAL),
    Bound("Laplace: rate / normal", 0.5, of=(generate("Laplace"), OURS), over=NORMAL),
    Bound(PEAK, 0.0, 1.0),
    Bound(EXPONENT, 0.95, 1.05),
    Bound("two devices: rate / one", 1.8, of=(on_devices(2), OURS), over=(on_devices(1), OURS)),
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
    quantizers: tuple[int, ...] = (1, 8, MANY)
    laws: tuple[str, ...] = ("normal", "student-t", "Laplace")
    types: tuple[str, ...] = ("q8_0", "q4_0", "q4_k", "q6_k")
    devices: tuple[int, ...] = (1, 2)
    compiled: bool = True  # torch.compile, too
    rounds: int = 7
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer of everything, and all in this process: no torch.compile, no scaling."""
        few = cls(given=2**20, drawn=2**19, packed=2**18, fewer=2**18, quantizers=(1, 2), rounds=2)
        return replace(few, laws=("normal",), types=("q8_0",), scaling=(), devices=(), compiled=False)


# --- measurement ----------------------------------------------------------------------------------------------------


def measure(config: Config) -> Iterator[Cell]:
    """One cell a comparison."""
    yield "given", partial(_compared, config, partial(_jobs.given, compiled=config.compiled), config.given, config.seed)
    yield "drawn", partial(_compared, config, _jobs.draws, config.drawn, config.laws)
    for number in config.quantizers:
        yield f"{number} quantizers", partial(_compared, config, _jobs.sweeps, config.drawn, config.fewer, number)
    yield "packed", partial(_compared, config, _jobs.packing, config.packed, config.types, config.seed)
    yield SCALING, partial(_over_weights, config)
    yield "devices", partial(_over_devices, config)


def _compared(config: Config, job: Callable[..., Iterable[Contender]], *arguments: Any) -> list[dict]:
    """Rows of the contenders of a job, who are made here: arrays live as long as their comparison."""
    return _rows(config, _timing.timed(list(job(*arguments)), config.rounds))


def _rows(config: Config, times: dict[Contender, Seconds]) -> list[dict]:
    """A row for each contender, and one for each ratio of those that are here."""
    rows = [_timing.row(contender, seconds, config.seed) for contender, seconds in times.items()]
    a_weight = {(c.job, c.name): seconds / c.weights for c, seconds in times.items()}
    for bound in BOUNDS:
        if bound.of in a_weight and bound.over in a_weight:
            rate = _timing.ratio(a_weight[bound.over], a_weight[bound.of], config.seed)
            rows.append(_ratio_row(bound.name, rate) | {"rounds": config.rounds})
    return rows


def _ratio_row(name: str, found: Estimate) -> dict[str, Any]:
    return {"kind": "ratio", "name": name, "ratio": found.value, "ratio_se": found.se}


def _over_weights(config: Config) -> list[dict]:
    """Time and peak of memory of ever more weights, and the exponent of their power law."""
    if not config.scaling:
        return []
    rows: list[dict] = []
    with _served.serving(jax.device_count()) as ask:
        for weights in sorted(config.scaling):
            repeats = min(max(10**9 // weights, 1), config.rounds)
            found = [ask(weights) for _ in range(repeats)]
            contender = _timing.by_quantsim(SCALING, weights, _served.serve)
            row = _timing.row(contender, np.array([f["seconds"] for f in found]), config.seed)
            rows.append(row | {"peak_gb": found[-1]["peak_gb"], "sqnr_db": found[-1]["sqnr_db"]})
    fit: Any = linregress(np.log10([r["weights"] for r in rows]), np.log10([r["seconds"] for r in rows]))
    exponent = _ratio_row(EXPONENT, Estimate(fit.slope, fit.stderr))
    return [*rows, exponent, _ratio_row(PEAK, Estimate(rows[-1]["peak_gb"]))]


def _over_devices(config: Config) -> list[dict]:
    """One sweep on one device and on several, in processes that take turns."""
    if jax.default_backend() != "cpu":
        return [{"kind": "note", "text": "Scaling over devices is measured on CPU only."}]
    if not config.devices:
        return []
    with ExitStack() as stack:
        asks = [stack.enter_context(_served.serving(n)) for n in config.devices]
        rounds = [[ask(config.spread)["seconds"] for ask in asks] for _ in range(config.rounds)]
    contenders = [_timing.by_quantsim(on_devices(n), config.spread, _served.serve) for n in config.devices]
    return _rows(config, dict(zip(contenders, np.array(rounds).T, strict=True)))


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
    lines += [_judged(bound, rows) for bound in BOUNDS]
    absent = _rivals.missing(timed.column("contender"))
    return "\n".join([*lines, *rows.where(kind="note").values("text"), *([absent] if absent else [])])


def _judged(bound: Bound, rows: Rows) -> str:
    """A line of the table: name, number, bound, judgement."""
    found = [r for r in rows.where(kind="ratio", name=bound.name) if r["ratio"] is not None]
    if not found:
        return f"  {bound.name:<44} {'':>14}   {bound!s:<12}   not measured"
    estimate = Estimate(found[0]["ratio"], found[0]["ratio_se"])
    value = f"{estimate.value:.2f} ± {estimate.se:.2f}"
    return f"  {bound.name:<44} {value:>14}   {bound!s:<12}   {bound.judge(estimate)}"


# --- figure ---------------------------------------------------------------------------------------------------------

STYLES = {
    OURS: plotting.Style(plotting.BLUE, "o", "quantsim"),
    "torch.compile": plotting.Style(plotting.VERMILION, "s", "torch.compile"),
    "torch": plotting.Style(plotting.ORANGE, "v", "torch eager"),
    "NumPy": plotting.Style(plotting.GREEN, "^"),
    NUMPY_GGUF: plotting.Style(plotting.GREEN, "^", "NumPy (+ gguf)"),
}


def draw(rows: Rows) -> plotting.Figure:
    """Rates of all jobs under the limit; time against weights; time against quantizers, and of the parts alone."""
    fig, axes = plotting.mosaic("aaabb;aaacc", height=4.6)
    timed = rows.where(kind="time")
    rates(axes["a"], timed, limit(rows))
    over_weights(axes["b"], timed.where(job=SCALING))
    over_quantizers(axes["c"], timed)
    fig.legend(*axes["a"].get_legend_handles_labels(), loc="outside upper center", ncol=6, columnspacing=1.2)
    plotting.letter(axes[k] for k in "abc")
    return fig


def rates(ax: plotting.Axes, timed: Rows, most: float) -> None:
    """A line a job, a marker a contender with its quartiles; at the right, quantsim over the best of the others."""
    jobs = [job for job in timed.values("job") if job not in (READ, COPY, SCALING)]
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
    ax.set_yticks(range(len(jobs)), jobs)


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


def _not_measured(ax: plotting.Axes) -> None:
    plotting.note(ax, 0.5, 0.5, "not measured here", ha="center", transform=ax.transAxes)


CLAIMS = ()
