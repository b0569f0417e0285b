"""Does an error that is made in every step of an iteration die out, add up or grow?

Method. x <- a x in many dimensions, each plane turned by an angle of its own or not, with an error of rms 1 added in
every step: the same one (persistent), or another (fresh).
Expected. A contraction forgets: errors end below 1 / (1 - a), whatever the number of steps. A map of size 1 adds
persistent errors up, n after n steps, and fresh ones as their powers, √n; a rotation turns a persistent error away from
itself, so that it adds up as fresh ones do. An expansion multiplies the first error most, and all grow as aⁿ. All
as ``theory.geometric_error`` has it: the dashed lines.
Refuted if one of the 64 errors is off its line by more than 5.6 of its standard errors, which by chance happens to
eight repeats in one of twenty such figures (Student's t, Bonferroni).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, root_ratio
from quantsim.rows import Rows


@dataclass(frozen=True)
class Map:
    """x <- factor x, its planes turned by random angles or not."""

    name: str
    factor: float
    turned: bool = False


MAPS = (
    Map("× 0.8", 0.8),
    Map("× 1", 1.0),
    Map("× 1, turned", 1.0, turned=True),
    Map("× 1.1", 1.1),
)


@dataclass(frozen=True)
class Config:
    """Repeats, the units of the standard errors; planes in each; steps after which errors are read."""

    repeats: int = 8
    planes: int = 64 * 64
    iterated: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 100)
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer repeats."""
        return cls(repeats=3)


def measure(config: Config) -> Iterator[Cell]:
    """One cell, of all maps."""
    yield "maps", partial(maps, config)


def maps(config: Config) -> list[dict]:
    """Rms error after some steps of each map, an error of rms 1 being added in every step."""
    shape = (config.repeats, config.planes)  # planes, as complex numbers
    rows = []
    for each in MAPS:
        for persistent in (True, False):
            rng = np.random.default_rng(config.seed)
            turn = np.exp(1j * rng.uniform(0, 2 * np.pi, shape)) if each.turned else 1.0
            error, once = np.zeros(shape, complex), complex_normal(rng, shape)
            for step in range(1, max(config.iterated) + 1):
                error = each.factor * turn * error + (once if persistent else complex_normal(rng, shape))
                if step in config.iterated:
                    row = {"kind": "map", "map": each.name, "persistent": persistent, "step": step}
                    row |= columns(rms=root_ratio(np.sum(np.abs(error) ** 2, axis=1), shape[1]))
                    coherent = persistent and not each.turned  # turned by all angles alike, powers add up
                    row["predicted_rms"] = theory.geometric_error(each.factor, step, persistent=coherent)
                    rows.append(row)
    return rows


def complex_normal(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """Complex numbers with E|z|^2 = 1."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def summary(rows: Rows) -> str:
    """What a persistent and a fresh error are after the most steps, and how far all are off the theory."""
    last = Rows(r for r in rows if r["step"] == max(rows.column("step")))
    found = "; ".join(
        f"{each.name} {last.where(map=each.name, persistent=True).one('rms'):.3g} and "
        f"{last.where(map=each.name, persistent=False).one('rms'):.3g}"
        for each in MAPS
    )
    off = abs(rows.column("rms") - rows.column("predicted_rms")) / rows.column("rms_se")
    steps = f"After {last[0]['step']} steps persistent and fresh errors are, times that of one step: {found}."
    return f"{steps}\nOff the theory by at most {max(off):.1f} standard errors, in {len(rows)} cases."


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(each.name for each in MAPS)


def draw(rows: Rows) -> plotting.Figure:
    """Errors of all maps against the number of steps."""
    figure, axes = plotting.figure(width="single", height=2.8)
    of_maps(axes[0, 0], rows)
    return figure


def of_maps(ax: Axes, rows: Rows) -> None:
    """Error of each map against its steps, filled if it is the same in every step, open if fresh."""
    for name, style in STYLES.items():
        found = rows.where(map=name)
        plotting.measured(ax, found.where(persistent=True), "step", "rms", series=style)
        fresh = Style(style.color, style.marker)
        plotting.measured(ax, found.where(persistent=False), "step", "rms", series=fresh, markerfacecolor="w")
    ax.set(xscale="log", yscale="log", ylim=(0.7, 1e4), xlabel="steps of x ← a x\n● persistent, ○ fresh")
    ax.set_ylabel("error / error of one step, rms")
    ax.legend(loc="upper left")


CLAIMS = ()
