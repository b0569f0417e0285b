"""How contenders are timed: in turns, in one process, with a bootstrap over the turns for the standard error."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from quantsim.measure.ratios import Estimate

from . import _rivals

#: Seconds of each round.
Seconds = NDArray[np.float64]

OURS = "quantsim"
CALLS_ON_ACCELERATOR = 8  # in one timing, or launches would be all that is seen
RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class Contender:
    """Who does which job, for how many weights, and where; contenders of one job and name are parts of one whole."""

    job: str
    name: str
    weights: int
    run: Callable[[], Any]
    device: str
    threads: int | None


@cache
def processor() -> str:
    """Name of the CPU and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = found[0].replace("(R)", "").replace("(TM)", "") if found else "CPU"
    return f"{name}, {os.cpu_count()} cores"


def by_quantsim(job: str, weights: int, run: Callable[[], Any], name: str = OURS) -> Contender:
    """Quantsim, on all devices of JAX."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return Contender(job, name, weights, run, processor(), os.cpu_count())
    return Contender(job, name, weights, run, f"{jax.device_count()} x {device.device_kind}", None)


def by_numpy(job: str, weights: int, run: Callable[[], Any], name: str = "NumPy") -> Contender:
    """NumPy or another one that works on one thread."""
    return Contender(job, name, weights, run, processor(), 1)


def by_torch(job: str, weights: int, run: Callable[[], Any], name: str = "torch") -> Contender:
    """Torch, on a device of the kind that JAX computes on."""
    torch = _rivals.optional("torch")
    if _rivals.torch_device() == "cpu":
        return Contender(job, name, weights, run, processor(), torch.get_num_threads())
    return Contender(job, name, weights, run, f"1 x {torch.cuda.get_device_name()}", None)


def finish(started: Any) -> None:
    """Wait until JAX and torch have done what they were asked to."""
    jax.block_until_ready(started)
    _rivals.wait()


def timed(contenders: Sequence[Contender], rounds: int) -> dict[Contender, Seconds]:
    """Seconds of each whole in every round but the first, which compiles; its first part stands for it."""
    found: dict[Contender, list[float]] = {c: [] for c in contenders}
    for _ in range(rounds + 1):
        for contender, seconds in found.items():
            seconds.append(_seconds_of(contender))
    first: dict[tuple[str, str], Contender] = {}
    whole: dict[Contender, Seconds] = {}
    for contender, seconds in found.items():
        stands = first.setdefault((contender.job, contender.name), contender)
        whole[stands] = whole.get(stands, np.zeros(rounds)) + np.array(seconds[1:])
    return whole


def _seconds_of(contender: Contender) -> float:
    calls = 1 if contender.device == processor() else CALLS_ON_ACCELERATOR
    start = time.perf_counter()
    finish([contender.run() for _ in range(calls)])
    return (time.perf_counter() - start) / calls


def row(contender: Contender, seconds: Seconds, seed: int) -> dict[str, Any]:
    """What was measured of a contender: seconds, and M weights/s at the median."""
    first_quartile, median, third_quartile = np.quantile(seconds, (0.25, 0.5, 0.75))
    return {
        "kind": "time",
        "job": contender.job,
        "contender": contender.name,
        "weights": contender.weights,
        "rounds": len(seconds),
        "seconds": median,
        "seconds_se": _bootstrap_se(_median, seed, seconds),
        "seconds_q1": first_quartile,
        "seconds_q3": third_quartile,
        "rate": contender.weights / median / 1e6,
        "device": contender.device,
        "threads": contender.threads,
    }


def ratio(of: Seconds, over: Seconds, seed: int) -> Estimate:
    """Ratio of medians; the bootstrap draws rounds, as a machine that slows down slows down all of a round."""
    return Estimate(float(_ratio_of_medians(of, over)), _bootstrap_se(_ratio_of_medians, seed, of, over))


def _median(seconds: Seconds) -> Any:
    return np.median(seconds, axis=-1)


def _ratio_of_medians(of: Seconds, over: Seconds) -> Any:
    return _median(of) / _median(over)


def _bootstrap_se(statistic: Callable[..., Any], seed: int, *values: Seconds) -> float:
    rounds = len(values[0])
    drawn = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    return float(np.std(statistic(*(v[drawn] for v in values))))
