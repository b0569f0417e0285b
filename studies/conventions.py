"""What does each convention that papers leave unsaid change in an error, and in its sign?

Method. One convention at a time is changed on the same arrays: the bounds of integers, the rounding, what the scale is
stored in, the scale rule of MX formats. Effects are ratios of paired squared errors. Row j of an array has the standard
deviation 2^(j / 8), so that no power of two is favoured; errors count relative to it.
Expected, from errors uniform in a step: truncation -6.02 dB and half a step toward zero; stochastic rounding -3.01 dB
and no bias; half away from zero nothing, except where weights of few digits tie, and there a bias only; a step of
absmax / 127.5 or 128 gains 20 log10 of the ratio, but the extreme is no longer exact: it errs by half a step, or by one
where it clips, which costs more in a block of 32; a power of two as scale costs up to an octave, and clips where it is
too small.
Refuted where an effect is off its exact prediction by over four standard errors (that of the bias is a numerical one,
good to 0.001 of a step).

Settles A10 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import formats, theory
from quantsim._types import Matrix, NDArray, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import Estimate, columns, decibels
from quantsim.numerics import ieee
from quantsim.populations import parse as population
from quantsim.populations import samples
from quantsim.quantizer import Quantizer, parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys, population_key

from ._bias import SIZES, expected_outward

ROUNDING = 0x5EED  # stream of an array's key for stochastic rounding
BLOCK = 32
LOWEST_SHOWN = -7.0  # dB


@dataclass(frozen=True)
class Convention:
    """A quantizer with one convention changed, and the usual one that it is held against."""

    label: str
    usual: str
    changed: str


def bounds() -> Iterator[Convention]:
    for integer in ("int8", "int4"):
        for name in ("half", "full", "signed"):
            yield Convention(f"{integer} {name}", f"{integer}:block32", f"{integer}:block32:absmax:{name}")


def roundings() -> Iterator[Convention]:
    for usual in ("int8:block32", "int4:block32", "e4m3:block32", "bf16"):
        for name in ("away", "truncate", "stochastic"):
            yield Convention(f"{usual.removesuffix(':block32')} {name}", usual, f"{usual}:{name}")


def scales() -> Iterator[Convention]:
    for integer in ("int8", "int4"):
        for name in ("f16", "bf16", "e7m0"):  # e7m0: the nearest power of two
            yield Convention(f"{integer} {name}", f"{integer}:block32", f"{integer}:block32:absmax:{name}")
    for element, mx in (("int8", "mxint8"), ("e4m3", "mxfp8_e4m3"), ("e2m1", "mxfp4")):
        yield Convention(f"{element} → {mx}", f"{element}:block32", mx)


def rules(formats_: Iterable[str]) -> Iterator[Convention]:
    for mx in formats_:
        for name in ("ceil", "even", "rceil"):
            yield Convention(f"{mx.rpartition('_')[2]} {name}", mx, f"{mx}:{name}")


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "t5")
    shape: tuple[int, int] = (256, 1024)
    arrays: int = 16
    mx: tuple[str, ...] = ("mxint8", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4")
    phases: int = 8  # of the sizes, for the exact mse
    points: int = 196418  # of the numerical expectation of the bias

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", "t5"), shape=(32, 1024), arrays=4, mx=("mxfp4",), phases=1, points=17711)


def measure(config: Config) -> Iterator[Cell]:
    groups = {
        "bounds": tuple(bounds()),
        "rounding": tuple(roundings()),
        "ties": (Convention("bf16 → e4m3 away", "e4m3", "e4m3:away"),),  # of weights in bf16: few digits, which do tie
        "scale": tuple(scales()),
        "rule": tuple(rules(config.mx)),
    }
    for name in config.populations:
        for group, conventions in groups.items():
            yield f"{group}, {name}", partial(effects, config, name, group, conventions)
    yield "codes", partial(codes_in_use, config)


# --- measured -------------------------------------------------------------------------------------------------------


@partial(jax.tree_util.register_dataclass, data_fields=["squared", "signed", "outward"], meta_fields=[])
@dataclass(frozen=True)
class RowSums:
    """Sums over each row, relative to its size, of e^2, of e, and of e sign(w), positive away from zero."""

    squared: Float[Array, " rows"]
    signed: Float[Array, " rows"]
    outward: Float[Array, " rows"]


@jax.jit
def row_sums(w: Matrix, w_hat: Matrix, sizes: Float[Array, "rows 1"]) -> RowSums:
    e = error(w, w_hat) / sizes
    sums = (ieee.ordered_sum(values)[:, 0] for values in (ieee.square(e), e, e * jnp.sign(w)))
    return RowSums(*sums)


@dataclass(frozen=True)
class Errors:
    """Mean of e^2, of e and of e sign(w) over each array."""

    squared: NDArray[np.float64]
    signed: NDArray[np.float64]
    outward: NDArray[np.float64]


def effects(config: Config, name: str, group: str, conventions: Iterable[Convention]) -> list[dict[str, Any]]:
    """What each convention of a group changes, all measured on the same arrays."""
    specs = dict.fromkeys(spec for c in conventions for spec in (c.usual, c.changed))
    arrays, keys = weights(config, name), array_keys(config.seed, name, config.arrays)
    if group == "ties":
        arrays = arrays.astype(jnp.bfloat16).astype(jnp.float32)
    found = {spec: errors_of(arrays, keys, spec, stream) for stream, spec in enumerate(specs)}
    rows = []
    for c in conventions:
        usual, changed = found[c.usual], found[c.changed]
        row = {"kind": group, "population": name, "label": c.label, "usual": c.usual, "spec": c.changed}
        row |= columns(
            effect_db=decibels(usual.squared, changed.squared),
            mean_steps=in_steps(changed.signed, usual.squared),
            outward_steps=in_steps(changed.outward, usual.squared),
        )
        if group != "ties":
            row |= predictions(config, name, c)
        rows.append(row | {"closed_db": closed_form(group, c.changed)})
    return rows


@lru_cache(1)
def weights(config: Config, name: str) -> Float[Array, "arrays rows columns"]:
    arrays = samples(population(name), array_keys(config.seed, name, config.arrays), config.shape)
    return arrays * sizes_of_rows(config.shape[0])


def sizes_of_rows(rows: int) -> Float[NDArray[np.float32], "rows 1"]:
    return np.resize(SIZES, rows).astype(np.float32)[:, None]


def errors_of(arrays: Any, keys: PRNGKey, spec: str, stream: int) -> Errors:
    """Errors of a quantizer on each array; of stochastic rounding with random numbers of its own."""
    q, (_, rows, columns_) = parse(spec), arrays.shape
    sums = []
    for w, key in zip(arrays, keys, strict=True):
        random = jax.random.fold_in(jax.random.fold_in(key, ROUNDING), stream) if "stochastic" in spec else None
        w_hat = q.roundtrip(w, key=random)
        sums.append(row_sums(w, w_hat, sizes_of_rows(rows)))
    stacked = jax.tree.map(lambda *leaves: np.array(leaves, np.float64).mean(axis=1) / columns_, *sums)
    return Errors(stacked.squared, stacked.signed, stacked.outward)


def in_steps(bias: NDArray[np.float64], squared: NDArray[np.float64]) -> Estimate:
    """Mean error over the step sqrt(12 E[e^2]) of a uniform quantizer with this squared error, by the delta method."""
    step = np.sqrt(12 * squared.mean())
    value = bias.mean() / step
    each = bias / step - value * squared / squared.mean() / 2
    return Estimate(float(value), float(each.std(ddof=1) / np.sqrt(each.size)))


def codes_in_use(config: Config) -> list[dict[str, Any]]:
    """First and last code of five conventions of int8 on a symmetric sample: of each weight also the negative."""
    w = population("uniform").sample(population_key(config.seed, "uniform"), config.shape)
    rows = []
    for name in ("absmax", "half", "full", "signed", "minmax"):
        codes = np.asarray(parse(f"int8:tensor:{name}").quantize(jnp.concatenate([w, -w])).codes, np.int32)
        if name == "minmax":  # 0 … 255, shifted as hardware does
            codes = codes - 128
        rows.append({"kind": "codes", "name": name, "ends": [int(codes.min()), int(codes.max())]})
    return rows


# --- predicted ------------------------------------------------------------------------------------------------------


def predictions(config: Config, name: str, convention: Convention) -> dict[str, float]:
    usual, changed = (exact_mse(name, spec, config.phases) for spec in (convention.usual, convention.changed))
    outward = expected_outward(population(name), convention.changed, config.points)
    return {
        "predicted_effect_db": -10 * np.log10(changed / usual),
        "predicted_outward_steps": outward / np.sqrt(12 * usual),
    }


@lru_cache(None)
def exact_mse(name: str, spec: str, phases: int) -> float:
    """Relative mse, mean over rows of all sizes; of those of size 1 where a float32 scale makes it the same for all."""
    q = parse(spec)
    sizes = [1.0] if follows_any_size(q) else SIZES[:: len(SIZES) // phases].tolist()
    return float(np.mean([theory.weight_rel_mse(population(f"{name}(std={size!r})"), q) for size in sizes]))


def follows_any_size(q: Any) -> bool:
    """Not where it truncates: whether a quotient of float32 falls short of a whole number depends on the size."""
    scaled = isinstance(q, Quantizer) and q.granularity is not None
    return scaled and q.scale_format.name == "f32" and q.rounding != "truncate"


def closed_form(group: str, spec: str) -> float | None:
    """Effect in dB where errors are uniform in a step, on blocks of 32: the extreme's own error counts."""
    name, half_the_error = spec.rpartition(":")[2], float(-20 * np.log10(2))
    if group == "rounding":
        return {"truncate": half_the_error, "stochastic": half_the_error / 2}.get(name)
    if group == "bounds":
        return closed_form_of_bounds(parse(spec).format, name)  # pyright: ignore[reportAttributeAccessIssue]
    if spec == "mxint8":  # E[1 / m^2] = 3 / (8 ln 2), as the mantissa m of the extreme is equally likely in octaves
        return float(-10 * np.log10((127 / 64) ** 2 * 3 / (8 * np.log(2)) * BLOCK / (BLOCK - 1)))
    return half_the_error if spec == "mxint8:ceil" else None


def closed_form_of_bounds(element: formats.Integer, name: str) -> float:
    """A finer step for 31 weights of a block, and an error of the extreme, which has none in narrow bounds."""
    extreme = {"half": 1 / 4, "full": 1 / 2, "signed": 0.0}[name]  # squared error in steps^2, mean of both signs
    finer = formats.reach(element) / (2 ** (element.bits - 1) - 1)
    others = (BLOCK - 1) / 12
    return float(20 * np.log10(finer) - 10 * np.log10((others + extreme) / others))


# --- the figure -----------------------------------------------------------------------------------------------------

TITLES = {
    "bounds": "instead of narrow bounds",
    "rounding": "instead of half to even",
    "scale": "instead of a float32 scale",
    "rule": "instead of the MX rule floor",
}


def draw(rows: Rows) -> plotting.Figure:
    ratios = {"height_ratios": (6, 13, 9), "width_ratios": (1.2, 0.8, 1.2)}
    figure, panels = plotting.mosaic("abg;cdg;efg", height=5.5, **ratios)
    for of_effect, of_bias, groups in (
        ("a", "b", ("bounds",)),
        ("c", "d", ("rounding", "ties")),
        ("e", "f", ("scale",)),
    ):
        shown = Rows(r for r in rows if r["kind"] in groups)
        effect_on_sqnr(panels[of_effect], shown)
        panels[of_effect].set_title(TITLES[groups[0]], fontsize=7)
        outward_error(panels[of_bias], shown)
    effect_on_sqnr(panels["g"], rows.where(kind="rule"))
    panels["g"].set_title(TITLES["rule"], fontsize=7)
    panels["g"].legend(loc="center left", bbox_to_anchor=(0.0, 0.72))
    panels["a"].text(0.98, 0.8, "A10: narrow\nhas no −128", fontsize=6, ha="right", transform=panels["a"].transAxes)
    for letter in "eg":
        panels[letter].set_xlabel("effect on SQNR (dB)")
    panels["f"].set_xlabel("outward error (steps)")
    plotting.letter(panels[letter] for letter in "abcdefg")
    return figure


def effect_on_sqnr(ax: Axes, rows: Rows) -> None:
    labels = one_line_a_convention(ax, rows, "effect_db")
    for r in rows.where(population=rows[0]["population"]):
        place = labels.index(r["label"])
        if r["effect_db"] < LOWEST_SHOWN:
            plotting.note(ax, LOWEST_SHOWN + 0.2, place - 0.3, f"← {r['effect_db']:.0f} dB", fontsize=6)
        if r["closed_db"] is not None:
            ax.plot(r["closed_db"], place, "x", color="0.25", ms=3)
    ax.plot([], [], "|", color="0.25", ms=8, label="predicted")
    ax.plot([], [], "x", color="0.25", ms=3, label="errors uniform in a step")
    ax.set_xlim(left=max(ax.get_xlim()[0], LOWEST_SHOWN))


def outward_error(ax: Axes, rows: Rows) -> None:
    one_line_a_convention(ax, rows, "outward_steps")
    ax.set(yticklabels=[], xlim=(-0.6, 0.1))


def one_line_a_convention(ax: Axes, rows: Rows, column: str) -> list[str]:
    """One dot for each population, with its interval and its prediction; the labels, from below."""
    labels = rows.values("label")[::-1]
    for k, (name, style) in enumerate(plotting.styles(rows.values("population")).items()):
        found = rows.where(population=name)
        places = [labels.index(r["label"]) + 0.25 * (1 - k) for r in found]
        plotting.dots(ax, found, column, places, series=style, ms=2.4, lw=0.8)
    ax.axvline(0, color="0.1", lw=0.8)
    ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(-0.6, len(labels) - 0.4))
    ax.tick_params(axis="y", labelsize=6)
    return labels


# --- the verdict ----------------------------------------------------------------------------------------------------


def use_every_code(rows: Rows) -> float:
    """Share of the conventions whose codes on a symmetric sample run from -128 to 127."""
    return share(r["ends"] == [-128, 127] for r in rows.where(kind="codes"))


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A10",
        statement="int8 covers −128…127 or 0…255",
        definition="share of five int8 conventions",
        number=use_every_code,
        rule=share_of_cases("it uses all of −128 … 127 on weights that reach ±absmax"),
        reading="the usual symmetric one, absmax / 127, never uses −128; 0 … 255 is uint8",
    ),
)
