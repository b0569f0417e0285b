"""What the numbers of the study ``throughput`` are held against, and the rows and lines that say so."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias

from quantsim.measure.ratios import CLEARLY, Estimate
from quantsim.rows import Rows

from . import _gptq, _timing, _unpacking
from ._inspected import INSPECT
from ._jobs import FULL_STATISTICS, SUM_OF_PARTS, generate, generate_and_measure, pack
from ._rivals import C_REFERENCE, NUMPY_GGUF
from ._timing import OURS, Contender, Seconds

MANY = 32  # quantizers of one draw
LAYER, SMALLER_LAYER = 4096, 1024  # inputs and outputs
PEAK, EXPONENT = "most weights: peak of memory, GB", "time ~ weights^a: a"

#: A job and who does it.
Turn: TypeAlias = tuple[str, str]
Judgement: TypeAlias = Literal["met", "missed", "within its error", "not measured"]


def on_cores(cores: int, devices: int = 1) -> str:
    """Name of the job that draws and measures on so many cores, of which JAX makes so many devices."""
    return f"generate + measure, 1; cores: {cores}, devices: {devices}"


def seconds_of(job: str) -> str:
    """Name of the seconds that a job takes quantsim."""
    return f"{job}: seconds"


def peak_of(job: str) -> str:
    """Name of the peak of memory of quantsim's process that does a job."""
    return f"{job}: peak of memory, GB"


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


def _unpacked(kind: str) -> Bound:
    job = _unpacking.unpack(kind)
    return Bound(f"{job}: rate / gguf", _unpacking.TIMES, of=(job, OURS), over=(job, NUMPY_GGUF))


def _packed(kind: str, times: float) -> Bound:
    return Bound(f"{pack(kind)}: rate / C", times, of=(pack(kind), OURS), over=(pack(kind), C_REFERENCE))


STATISTICS, NORMAL, SWEEP = (FULL_STATISTICS, OURS), (generate("normal"), OURS), (generate_and_measure(MANY), OURS)
GPTQ, SMALLER_GPTQ = _gptq.job(LAYER), _gptq.job(SMALLER_LAYER)
BOUNDS = (
    Bound("full statistics: rate / torch.compile", 1.2, of=STATISTICS, over=(FULL_STATISTICS, "torch.compile")),
    Bound("full statistics: rate / torch eager", 10.0, of=STATISTICS, over=(FULL_STATISTICS, "torch")),
    Bound("full statistics: rate / NumPy + gguf", 25.0, of=STATISTICS, over=(FULL_STATISTICS, NUMPY_GGUF)),
    Bound(f"generate + measure, {MANY}: time / sum of parts", 0.0, 1.25, (SWEEP[0], SUM_OF_PARTS), SWEEP),
    Bound(f"generate + measure, {MANY}: rate / NumPy + gguf", 10.0, of=SWEEP, over=(SWEEP[0], NUMPY_GGUF)),
    Bound("normal: rate / torch", 2.2, of=NORMAL, over=(NORMAL[0], "torch")),
    Bound("normal: rate / NumPy", 3.0, of=NORMAL, over=(NORMAL[0], "NumPy")),
    Bound("student-t: rate / normal", 0.5, of=(generate("student-t"), OURS), over=NORMAL),
    Bound("Laplace: rate / normal", 0.5, of=(generate("Laplace"), OURS), over=NORMAL),
    Bound("inspect: rate / NumPy + gguf", 10.0, of=(INSPECT, OURS), over=(INSPECT, NUMPY_GGUF)),
    _packed("q3_k", 2.0),
    _packed("q2_k", 3.0),
    Bound(PEAK, 0.0, 1.0),
    Bound(EXPONENT, 0.95, 1.05),
    Bound("two cores: rate / one", 1.8, of=(on_cores(2), OURS), over=(on_cores(1), OURS)),
    Bound("two cores, two devices: rate / one, one", 1.8, of=(on_cores(2, 2), OURS), over=(on_cores(1), OURS)),
    Bound(f"{GPTQ}: rate / torch", 4.0, of=(GPTQ, OURS), over=(GPTQ, _gptq.NEURAL_COMPRESSOR)),
    Bound(f"{SMALLER_GPTQ}: rate / qwix", 4.0, of=(SMALLER_GPTQ, OURS), over=(SMALLER_GPTQ, _gptq.QWIX)),
    Bound(seconds_of(GPTQ), 0.0, 60.0),
    Bound(peak_of(GPTQ), 0.0, 2.0),
    *(Bound(_unpacking.rate_of(kind), _unpacking.LEAST) for kind in _unpacking.COMMON),
    *(_unpacked(kind) for kind in _unpacking.TYPES if kind not in _unpacking.ALONE),
)


def ratio_row(name: str, found: Estimate) -> dict[str, Any]:
    """The row of a number that has a bound, or of one like it in another size."""
    return {"kind": "ratio", "name": name, "ratio": found.value, "ratio_se": found.se}


def ratio_rows(times: dict[Contender, Seconds], seed: int) -> Iterator[dict[str, Any]]:
    """A row for each ratio of those that are here."""
    a_weight = {(c.job, c.name): seconds / c.weights for c, seconds in times.items()}
    for bound in BOUNDS:
        if bound.of in a_weight and bound.over in a_weight:
            rate = _timing.ratio(a_weight[bound.over], a_weight[bound.of], seed)
            yield ratio_row(bound.name, rate) | {"rounds": len(a_weight[bound.of])}


def line(bound: Bound, rows: Rows) -> str:
    """A line of the table: name, number, bound, judgement."""
    found = [r for r in rows.where(kind="ratio", name=bound.name) if r["ratio"] is not None]
    if not found:
        return f"  {bound.name:<44} {'':>14}   {bound!s:<12}   not measured"
    estimate = Estimate(found[0]["ratio"], found[0]["ratio_se"])
    value = f"{estimate.value:.2f} ± {estimate.se:.2f}"
    return f"  {bound.name:<44} {value:>14}   {bound!s:<12}   {bound.judge(estimate)}"
