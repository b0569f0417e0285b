"""What does each convention that papers leave unsaid change in an error, and in its sign?

One convention at a time is changed on the same arrays: the bounds of integers, the rounding, what the scale is stored
in, the scale rule of MX formats. Effects are ratios of paired squared errors. Row j of an array has the standard
deviation 2^(j / 8), so that no power of two is favoured; errors count relative to it. Expected, from errors uniform in
a step: truncation -6.02 dB and half a step toward zero; stochastic rounding -3.01 dB and no bias; half away from zero
nothing, except where weights of few digits tie, and there a bias only; a step of absmax / 127.5 or 128 gains 20 log10
of the ratio, but the extreme is no longer exact: it errs by half a step, or by one where it clips, which costs more in
a block of 32; a power of two as scale costs up to an octave, and clips where it is too small. Refuted where an effect
is off its exact prediction by over four standard errors (that of the bias is a numerical one, good to 0.001 of a step).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from quantsim import formats, theory
from quantsim._types import Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.measure.statistics import error
from quantsim.numerics import ieee
from quantsim.populations import Population
from quantsim.populations import parse as population
from quantsim.quantizer import Quantizer, parse
from quantsim.quantizer.blockformats.microscaling import E8M0, Microscaling
from quantsim.rows import Rows
from quantsim.sweep import population_key

PHASES = 2.0 ** (np.arange(8) / 8)
LOWEST = -7.0  # dB that the figure shows
MX = ("mxint8", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4")
ROUNDED = (("int8", ":block32"), ("int4", ":block32"), ("e4m3", ":block32"), ("bf16", ""))
# group: (label, usual, other)
GROUPS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "bounds": tuple((f"{i} {b}", f"{i}:block32", f"{i}:block32:absmax:{b}") for i in ("int8", "int4")
                    for b in ("half", "full", "signed")),
    "rounding": tuple((f"{f} {r}", f"{f}{g}", f"{f}{g}:{r}") for f, g in ROUNDED
                      for r in ("away", "truncate", "stochastic")),
    "ties": (("bf16 → e4m3 away", "e4m3", "e4m3:away"),),  # weights of few digits, which do tie
    "scale": (*((f"{i} {s}", f"{i}:block32", f"{i}:block32:absmax:{s}") for i in ("int8", "int4")
                for s in ("f16", "bf16", "e7m0")),  # e7m0: the nearest power of two
              *((f"{i} → {m}", f"{i}:block32", m) for i, m in
                (("int8", "mxint8"), ("e4m3", "mxfp8_e4m3"), ("e2m1", "mxfp4")))),
    "rule": tuple((f"{m.rpartition('_')[2]} {r}", m, f"{m}:{r}") for m in MX for r in ("ceil", "even", "rceil")),
}  # fmt: skip
TITLES = {"bounds": "instead of narrow bounds", "rounding": "instead of half to even",
          "scale": "instead of a float32 scale", "rule": "instead of the MX rule floor"}  # fmt: skip


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "t5")
    shape: tuple[int, int] = (256, 1024)
    arrays: int = 16
    phases: int = 8  # of the exact mse
    points: int = 196418  # of the numerical expectation of the bias

    @classmethod
    def small(cls) -> "Config":
        return cls(shape=(32, 1024), arrays=4, phases=2, points=17711)


def measure(config: Config) -> Iterator[Cell]:
    for group in GROUPS:
        yield group, lambda group=group: [r for name in config.populations for r in _effects(config, name, group)]
    yield "codes", lambda: [_codes(config, name) for name in ("absmax", "half", "full", "signed", "minmax")]


@partial(jax.jit, static_argnums=(0, 1))
def _sums(specs: tuple[str, ...], coarse: bool, w: Matrix, key: PRNGKey) -> jax.Array:
    """For each row the sums of e^2, of e and of e sign(w) under each quantizer."""
    size = jnp.asarray(np.resize(PHASES, len(w)), jnp.float32)[:, None]
    w = w * size
    w = w.astype(jnp.bfloat16).astype(jnp.float32) if coarse else w
    keys = [jax.random.fold_in(key, i) for i in range(len(specs))]
    e = jnp.stack([error(w, parse(s).roundtrip(w, key=k)) for s, k in zip(specs, keys, strict=True)]) / size
    return ieee.ordered_sum(jnp.concatenate([ieee.square(e), e, e * jnp.sign(w)]))[..., 0]


def _effects(config: Config, name: str, group: str) -> list[dict]:
    """What each convention of a group changes, all measured on the same arrays; bias in usual steps."""
    base, found = population_key(config.seed, name), []
    specs = tuple(dict.fromkeys(s for _, *pair in GROUPS[group] for s in pair))
    for k in range(config.arrays):
        key = jax.random.fold_in(base, k)
        w = population(name).sample(key, config.shape)
        found.append(np.asarray(_sums(specs, group == "ties", w, jax.random.fold_in(key, 0x5EED)), np.float64))
    sums = np.array(found).mean(axis=-1).T  # over rows, of which each array has one number
    e2, e, outward = (dict(zip(specs, part / config.shape[1], strict=True)) for part in np.split(sums, 3))
    rows = []
    for label, usual, other in GROUPS[group]:
        row = {"kind": group, "population": name, "label": label, "usual": usual, "spec": other}
        ratio, se = ratio_of_sums(e2[other], e2[usual])
        row |= {"effect_db": -10 * np.log10(ratio), "effect_db_se": 10 / np.log(10) * se / ratio}
        row |= _in_steps("mean", e[other], e2[usual]) | _in_steps("outward", outward[other], e2[usual])
        row |= {} if group == "ties" else _predictions(config, name, usual, other)
        rows.append(row | {"closed_db": _closed(group, other)})
    return rows


def _codes(config: Config, name: str) -> dict:
    """Codes that a symmetric sample uses under one convention of int8: of each weight also the negative."""
    w = population("uniform").sample(population_key(config.seed, "uniform"), config.shape)
    codes = np.asarray(parse(f"int8:tensor:{name}").quantize(jnp.concatenate([w, -w])).codes, np.int32)
    codes -= 128 * (name == "minmax")
    return {"kind": "codes", "name": name, "ends": [int(codes.min()), int(codes.max())]}


def _in_steps(name: str, bias: np.ndarray, e2: np.ndarray) -> dict[str, float]:
    """Mean error over the step of a uniform quantizer with this squared error, sqrt(12) rms; delta method."""
    step = np.sqrt(12 * e2.mean())
    value, each = bias.mean() / step, bias / step - bias.mean() / step * e2 / e2.mean() / 2
    return {f"{name}_steps": float(value), f"{name}_steps_se": float(each.std(ddof=1) / each.size**0.5)}


def _predictions(config: Config, name: str, usual: str, other: str) -> dict[str, float]:
    base, e2 = (_mse(name, s, config.phases) for s in (usual, other))
    outward = _outward(population(name), other, config.points) / np.sqrt(12 * base)
    return {"predicted_effect_db": -10 * np.log10(e2 / base), "predicted_outward_steps": outward}


@lru_cache(None)
def _mse(name: str, spec: str, phases: int) -> float:
    """Exact relative mse, mean over rows of all sizes."""
    sizes = PHASES[:: len(PHASES) // phases].tolist()
    return float(np.mean([theory.weight_rel_mse(population(f"{name}(std={s!r})"), parse(spec)) for s in sizes]))


@lru_cache
def _outward(pop: Population, spec: str, points: int) -> float:
    """Numerical expectation of e sign(w) over blocks of rows of all sizes."""
    q = parse(spec)
    assert isinstance(q, Quantizer | Microscaling)
    fmt, rounding = (q.format, q.rounding) if isinstance(q, Quantizer) else (q.element, "even")
    block = 1 if isinstance(q, Quantizer) and q.granularity is None else 32

    def outward(x: Any, top: Any) -> Any:
        size = np.resize(np.repeat(PHASES, 2), len(x))  # in pairs, as every other extreme is negative
        x, top = np.float32(x * size), np.float32(top * size)
        scale = _scale(q, top) if block > 1 else np.float32(1)
        # the quotient is one of float32: whether that of the extreme is whole decides about a step where it truncates
        return _mean_error(np.float64(x / scale), fmt, rounding) * np.sign(x) * scale / size

    return theory.block_mean(pop, block, outward, points=points)


def _scale(q: Quantizer | Microscaling, top: Any) -> Any:
    """Scale of a block with this extreme, as it is stored, such that integers are whole numbers."""
    if isinstance(q, Microscaling):
        assert isinstance(q.scaling, E8M0)
        unit = 2.0 ** (q.element.bits - 2) if isinstance(q.element, formats.Integer) else 1.0
        return np.float32(
            _power_of_two(np.abs(top), q.scaling.rule, formats.largest(q.element) / unit, q.element) / unit
        )
    signed = isinstance(q.format, formats.Integer) and q.format.bounds == "signed"
    scale = (-top if signed else np.abs(top)) / np.float32(formats.reach(q.format))
    if q.scale_format.name == "e7m0":
        mantissa, exponent = np.frexp(scale)
        return np.ldexp(np.float32(1), exponent - (mantissa < 0.75))
    stored = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[q.scale_format.name]
    return np.float32(scale.astype(stored))


def _power_of_two(top: Any, rule: str, largest: float, element: formats.Format) -> Any:
    mantissa, exponent = np.frexp(top)  # from 1/2 to 1, so that the floor of the logarithm is one less
    digits = element.mantissa_bits if isinstance(element, formats.Float) else element.bits - 2
    up = {"floor": 0, "ceil": mantissa > 0.5, "even": mantissa >= 1 - 2.0 ** -(digits + 2),
          "rceil": mantissa > np.frexp(largest)[0]}[rule]  # fmt: skip
    return np.ldexp(1.0, exponent + up - np.frexp(largest)[1])


def _mean_error(u: Any, fmt: formats.Format, rounding: str) -> Any:
    """Mean error of rounding ``u``, which of stochastic rounding is only that of what is clipped."""
    assert not isinstance(fmt, formats.Codebook)
    g = formats.grid(fmt)
    inside = np.clip(u, g.low, g.high)
    if rounding == "stochastic":
        return inside - u
    quantum = np.ldexp(1.0, np.maximum(np.frexp(inside)[1] - 1, int(g.min_exponent)) - int(g.mantissa_bits))
    v = inside / quantum
    whole = {"even": np.rint, "away": lambda v: np.trunc(v + np.copysign(0.5, v)), "truncate": np.trunc}[rounding](v)
    return whole * quantum - u


def _closed(group: str, spec: str) -> float | None:
    """Effect in dB where errors are uniform in a step, on blocks of 32: the extreme's own error counts."""
    name = spec.rpartition(":")[2]
    if group == "rounding" and name in ("truncate", "stochastic"):
        return float(-20 * np.log10(2)) / (1 if name == "truncate" else 2)
    if group == "bounds":
        fmt = parse(spec).format  # pyright: ignore[reportAttributeAccessIssue]
        extreme = {"half": 1 / 4, "full": 1 / 2, "signed": 0.0}[name]  # squared error in steps, mean of both signs
        ratio = formats.reach(fmt) / (2 ** (fmt.bits - 1) - 1)
        return float(20 * np.log10(ratio) - 10 * np.log10((31 / 12 + extreme) / (31 / 12)))
    if spec == "mxint8":  # E[1 / m^2] = 3 / (8 ln 2), as the mantissa m of the extreme is equally likely in octaves
        return float(-10 * np.log10((127 / 64) ** 2 * 3 / (8 * np.log(2)) * 32 / 31))
    return float(-20 * np.log10(2)) if spec == "mxint8:ceil" else None


def draw(rows: Rows) -> plotting.Figure:
    ratios = {"height_ratios": (6, 13, 9), "width_ratios": (1.2, 0.8, 1.2)}
    fig, axes = plotting.mosaic("abg;cdg;efg", height=5.5, **ratios)
    panels = (("ab", ("bounds",)), ("cd", ("rounding", "ties")), ("ef", ("scale",)), ("g", ("rule",)))
    for names, groups in panels:
        found = Rows(r for r in rows if r["kind"] in groups)
        for name, column in zip(names, ("effect_db", "outward_steps"), strict=False):
            _dots(axes[name], found, column)
        if len(names) > 1:
            axes[names[1]].set(yticklabels=[], xlim=(-0.6, 0.1))
        axes[names[0]].set_title(TITLES[groups[0]], fontsize=7)
    for name in "eg":
        axes[name].set(xlabel="effect on SQNR (dB)")
    axes["f"].set(xlabel="outward error (steps)")
    axes["g"].legend(loc="center left", bbox_to_anchor=(0.0, 0.72))
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def _dots(ax: plotting.Axes, rows: Rows, column: str) -> None:
    """One line a convention, one dot a population, with its interval and its prediction."""
    labels = rows.values("label")[::-1]
    for at, pop in enumerate(rows.values("population")):
        r = Rows(row | {"at": labels.index(row["label"]) + 0.25 * (1 - at)} for row in rows.where(population=pop))
        style = {"marker": plotting.MARKERS[at], "color": plotting.COLORS[at], "linestyle": "none", "ms": 2.4}
        ax.errorbar(r.column(column), r.column("at"), xerr=1.96 * r.column(f"{column}_se"), label=pop, lw=0.8, **style)
        style = {"linestyle": "none", "marker": "|", "ms": 4, "lw": 0.6, "label": "predicted" if at == 2 else None}
        plotting.prediction(ax, r.column(f"predicted_{column}"), r.column("at"), **style)
    if column == "effect_db":
        r = rows.where(population=rows.values("population")[0])
        at = [labels.index(label) for label in r.values("label")]
        style = {"linestyle": "none", "marker": "x", "ms": 3, "label": "errors uniform in a step"}
        plotting.prediction(ax, r.column("closed_db"), at, **style)
        for row in r:
            if row["kind"] == "bounds" and row["label"] == labels[-1]:
                ax.text(0.98, 0.8, "A10: narrow\nhas no −128", fontsize=6, ha="right", transform=ax.transAxes)
            if row[column] < LOWEST:
                ax.text(LOWEST + 0.2, labels.index(row["label"]) - 0.3, f"← {row[column]:.0f} dB", fontsize=6)
        ax.set_xlim(left=max(ax.get_xlim()[0], LOWEST))
    ax.axvline(0, color="0.1", lw=0.8)
    ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(-0.6, len(labels) - 0.4))
    ax.tick_params(axis="y", labelsize=6)


CLAIMS = (
    Claim("A10", "share of five int8 conventions",
          lambda rows: float(np.mean([r["ends"] == [-128, 127] for r in rows.where(kind="codes")])),
          share_of_cases("it uses all of −128 … 127 on weights that reach ±absmax"),
          "the usual symmetric one, absmax / 127, never uses −128; 0 … 255 is uint8"),
)  # fmt: skip
