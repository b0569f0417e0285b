"""The part of the study ``throughput`` that unpacks: every GGUF type, beside the ``gguf`` package, under a copy."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from quantsim.lab import plotting
from quantsim.measure.ratios import Estimate
from quantsim.quantizer.blockformats import gguf
from quantsim.rows import Rows

from . import _rivals
from ._timing import OURS, Contender, by_numpy, by_quantsim

#: Every type of blocks; in files the names are in upper case.
TYPES = tuple(name.lower() for name in gguf.LAYOUTS)
#: Types that most files hold, and the M weights/s that they must reach; every type must be so many times the package's.
COMMON, LEAST, TIMES = ("q8_0", "q4_0", "q4_k", "q6_k"), 1000.0, 8.0
#: Types that the package does not dequantize.
ALONE = ("q8_1", "q1_0", "q8_k")
_COLUMNS = 4096
_UNPACK = "unpack "


def unpack(kind: str) -> str:
    """Name of the job that unpacks a type."""
    return _UNPACK + kind


def is_unpacking(job: str) -> bool:
    """Whether a job unpacks."""
    return job.startswith(_UNPACK)


def rate_of(kind: str) -> str:
    """Name of the rate of quantsim at a type."""
    return f"{unpack(kind)}: M weights/s"


def unpacking(weights: int, types: tuple[str, ...], seed: int) -> Iterator[Contender]:
    """Weights of random bytes of each type, as a file has them: in arrays of NumPy."""
    rng = np.random.default_rng(seed)
    for kind in types:
        size, nbytes = gguf.layout(kind)
        rows = max(weights // _COLUMNS, 1)
        data = rng.integers(0, 256, (rows, _COLUMNS // size * nbytes), dtype=np.uint8)
        drawn = rows * _COLUMNS
        yield by_quantsim(unpack(kind), drawn, partial(gguf.unpack, data, kind))
        if _rivals.optional("gguf") and kind not in ALONE:
            yield by_numpy(unpack(kind), drawn, partial(_rivals.unpacked, kind, data), _rivals.NUMPY_GGUF)


def rates(timed: list[dict[str, Any]]) -> Iterator[tuple[str, Estimate]]:
    """Names and rates of quantsim at the common types, of rows of times."""
    for row in timed:
        kind = row.get("job", "").removeprefix(_UNPACK)
        if kind in COMMON and row["job"] == unpack(kind) and row["contender"] == OURS:
            yield rate_of(kind), Estimate(row["rate"], row["rate"] * row["seconds_se"] / row["seconds"])


# --- figure ---------------------------------------------------------------------------------------------------------


def draw(ax: plotting.Axes, timed: Rows, styles: dict[str, plotting.Style], copy: float) -> None:
    """A column a type: rates, what they must reach, and above all the rate of a copy."""
    kinds = [job.removeprefix(_UNPACK) for job in timed.values("job") if is_unpacking(job)]
    found = {(r["job"].removeprefix(_UNPACK), r["contender"]): r["rate"] for r in timed if is_unpacking(r["job"])}
    for name in (_rivals.NUMPY_GGUF, OURS):
        here = [(at, found[kind, name]) for at, kind in enumerate(kinds) if (kind, name) in found]
        ax.plot(*np.array(here).reshape(-1, 2).T, styles[name].marker, color=styles[name].color, ms=4)
    look: dict[str, Any] = {"ls": "none", "ms": 9, "mew": 1.1, "zorder": 1}
    theirs = [
        (at, TIMES * found[k, _rivals.NUMPY_GGUF]) for at, k in enumerate(kinds) if (k, _rivals.NUMPY_GGUF) in found
    ]
    ax.plot(
        *np.array(theirs).reshape(-1, 2).T, marker="_", color=styles[_rivals.NUMPY_GGUF].color, label="8 × gguf", **look
    )
    least = [at for at, kind in enumerate(kinds) if kind in COMMON]
    ax.plot(least, [LEAST] * len(least), marker="_", color="0.1", label="1,000 M weights/s", **look)
    ax.axhline(copy, color="0.25", ls=":", lw=0.9, label=f"copy of the weights, {copy * 8e-3:.3g} GB/s")
    ax.set(yscale="log", ylabel="unpacked, M weights/s", xlim=(-0.7, max(len(kinds), 1) - 0.3))
    ax.set_ylim(top=6 * max([copy, *found.values()]))
    ax.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", which="minor", bottom=False)
    ax.legend(loc="upper left", ncol=3)
