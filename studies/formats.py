"""Which format wins at each bit budget, and how far is it from what its bits allow?

Method. Every format goes over the same arrays of five populations; its SQNR stands against the bits that it really
stores. Above lies Shannon's lower bound on the error, for the normal the Gaussian R(D): 6.02 dB a bit; between, the
best fixed codebook (Lloyd-Max) of each whole number of bits, its scale known and free. The winner of a budget has the
least squared error of those that fit; what no paired difference tells from it within three standard errors shares the
place. Scales of a whole tensor are noisier than the others and see more arrays; lattices, whose points are searched at
half a million weights a second, see fewer. Nothing is said of importances; then GGUF's searches below 4 bits weigh an
error by w^2, so normal weights are quantized once more with equal ones.
Expected. Searched two-level formats (K-quants, iq4) win below 7 bits, iq4 on bells, those with a minimum on uniform
weights; powers of two as scales lose 1 to 3 dB; under heavy tails small blocks beat even Lloyd-Max; lattices gain what
E8 gains on cubes, 0.65 dB. Wrong in two points: at 4.5 bits the minimum of q4_k beats the bell-shaped levels of iq4_nl
everywhere. And as they are used, without importances, iq3_s loses 0.8 dB to q3_k of as many bits, and iq1_m of 1.75
bits 1.6 dB to iq1_s of 1.56: weighed by w^2 large weights get what all others lose. With equal importances both win,
and iq2_s is 0.65 dB above q2_k.
Refuted if a format lies above the bound, or if MX or a scale per tensor wins below 7 bits. (Under t3 the intervals of a
scale per tensor say little, and theory counts weights that no sample here holds: one in 2e8 exceeds 448, where e4m3
ends, which takes 3.6 dB off its cast.)

Settles A31, A61 and A62 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, Verdict, share, share_of_cases, stated
from quantsim.lab.plotting import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import CLEARLY, Estimate, columns, decibels, difference
from quantsim.measure.squares import Squares, squares, squares_of_pairs
from quantsim.populations import Population, parse, samples
from quantsim.quantizer import parse as quantizer
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

FAMILIES = {
    "casts": ("bf16", "f16", "e4m3", "e5m2"),
    "integers": (
        "int8:tensor",
        "int8:channel",
        "int8:channel:minmax",
        "int8:tensor:p99.9",
        "int4:tensor:rms",
        "int4:block128:mse",
        "int4:block32",
        "int4:block32:absmax:f16",
    ),
    "floats, codebooks": ("e4m3:tensor", "e2m1:block16", "nf4:block64", "af4:block64", "fp4:block64"),
    "MX, NVFP4": (
        "mxfp4",
        "mxfp6_e2m3",
        "mxfp6_e3m2",
        "mxfp8_e4m3",
        "mxfp8_e5m2",
        "mxint8",
        "nvfp4",
        "nvfp4:single",
    ),
    "GGUF q_0, q_1": ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    "GGUF K": ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    "GGUF iq4, tq": ("iq4_nl", "iq4_xs", "tq1_0", "tq2_0"),
    "GGUF lattices": ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"),
}
LATTICES = FAMILIES["GGUF lattices"]
SEARCHED_WITHOUT = ("q2_k", "q3_k")  # K-quants whose searches weigh errors by the weights if nothing is said
FAMILY_OF = {spec: family for family, specs in FAMILIES.items() for spec in specs}
OF_A_TENSOR = tuple(spec for spec in FAMILY_OF if ":tensor" in spec)  # one scale for all: noisier than the others
BUDGETS = (1.6, 1.8, 2.1, 2.4, 2.7, 3.1, 3.5, 4.3, 4.5, 5.0, 5.6, 6.6, 8.1, 8.3, 8.5, 16.0)  # bits a weight
INT8 = ("int8:tensor", "int8:channel", "int8:channel:minmax", "mxint8", "q8_0")
INT4 = ("int4:tensor:rms", "int4:block32:absmax:f16", "int4:block128:mse", "q4_0", "q4_k")
ENOUGH_DB = 0.05  # standard error at which scales of a tensor have seen enough arrays
MATRIX = (4096, 4096)  # whose bytes are counted
ONE_BIT_DB = 20 * np.log10(2)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "t5", "t3", "uniform")
    shape: tuple[int, int] = (256, 1024)
    batch: int = 16  # arrays that every format sees
    batches: int = 32  # at most, for a scale per tensor
    searched: int = 8  # arrays of the first batch that lattices see
    lattices: tuple[str, ...] = LATTICES

    @classmethod
    def small(cls) -> "Config":
        few = cls(populations=("normal", "t5"), shape=(32, 1024), batch=4, batches=1)
        return replace(few, searched=2, lattices=("iq3_s",))


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield name, partial(every_format, config, name)
        yield f"codebooks {name}", partial(best_codebooks, name)
    yield "importances", partial(with_equal_importances, config)
    yield "memory", bytes_stored


def every_format(config: Config, name: str) -> list[dict[str, Any]]:
    """The SQNR of every format on one population, then who wins at each budget."""
    found = squares_of_every_format(config, name)
    rows = []
    for spec, squares_of_spec in found.items():
        q = quantizer(spec)
        row = {"kind": "sqnr", "population": name, "family": FAMILY_OF[spec], "spec": spec}
        row |= {"weights": squares_of_spec.error.size * prod(config.shape)}
        predicted = predicted_sqnr_db(parse(name), q, config.shape)
        rows.append(row | below_bound(name, q.bits_per_weight(config.shape), squares_of_spec.sqnr_db, predicted))
    return [*rows, *winners(config, name, found)]


def squares_of_every_format(config: Config, name: str) -> dict[str, Squares]:
    """Batches of arrays are added for the scales of a tensor until the SQNR of each of them is sure enough."""
    arrays = batch(config, name, 0)
    found = {spec: squares(arrays, quantizer(spec)) for spec in FAMILY_OF if spec not in LATTICES}
    found |= {spec: squares(arrays[: config.searched], quantizer(spec)) for spec in config.lattices}
    for number in range(1, config.batches):
        if all(found[spec].sqnr_db.se <= ENOUGH_DB for spec in OF_A_TENSOR):
            break
        arrays = batch(config, name, number)
        for spec in OF_A_TENSOR:
            found[spec] = found[spec].and_more(squares(arrays, quantizer(spec)))
    return found


def batch(config: Config, name: str, number: int) -> Float[Array, "arrays rows columns"]:
    """Independent arrays of a population; array k of all batches is a function of seed, name and k alone."""
    keys = array_keys(config.seed, name, config.batches * config.batch).reshape(config.batches, config.batch)
    return samples(parse(name), keys[number], config.shape)


def below_bound(name: str, bits: float, sqnr_db: Estimate, predicted_db: float | None) -> dict[str, Any]:
    """Columns of an SQNR at so many bits: how far it lies below what Shannon's bound allows."""
    pop = parse(name)
    bound_db = sqnr_of(pop, theory.shannon_lower_bound(pop, bits))
    return {
        "bits_per_weight": bits,
        "bound_db": bound_db,
        **columns(sqnr_db=sqnr_db, below_bound_db=sqnr_db.times(-1).plus(bound_db)),
        "predicted_sqnr_db": predicted_db,
        "predicted_below_bound_db": None if predicted_db is None else bound_db - predicted_db,
    }


def sqnr_of(pop: Population, mse: Any) -> float:
    """10 log10(E[w^2] / E[e^2]) in decibels."""
    return float(-10 * np.log10(mse / pop.moment(2)))


def best_codebooks(name: str) -> list[dict[str, Any]]:
    pop, rows = parse(name), []
    for bits in range(1, 9):
        sqnr_db = sqnr_of(pop, theory.levels_mse(pop, theory.lloyd_max(pop, 2**bits)))
        rows.append({"kind": "codebook", "population": name} | below_bound(name, bits, Estimate(sqnr_db), None))
    return rows


def winners(config: Config, name: str, found: dict[str, Squares]) -> list[dict[str, Any]]:
    """Of each budget the format of the least squared error on the arrays that all see, and those it hardly beats."""
    common = {spec: squares_of_spec.error[: config.searched] for spec, squares_of_spec in found.items()}
    bits = {spec: round(quantizer(spec).bits_per_weight(config.shape), 2) for spec in found}
    rows = []
    for budget in BUDGETS:
        fitting = sorted((spec for spec in bits if bits[spec] <= budget), key=bits.__getitem__)
        if not fitting:
            continue
        best = min(fitting, key=lambda spec: common[spec].sum())
        shared = [spec for spec in fitting if not decibels(common[spec], common[best]).clearly_above(0)]
        row = {"kind": "winner", "population": name, "budget": budget, "specs": " = ".join(shared), "first": shared[0]}
        rows.append(row | columns(sqnr_db=found[best].sqnr_db))
    return rows


def with_equal_importances(config: Config) -> list[dict[str, Any]]:
    """The SQNR of normal weights by searches that are told that all errors count the same, and what that gains."""
    arrays, rows = batch(config, "normal", 0)[: config.searched], []
    ones = np.ones(config.shape[1], np.float32)
    for spec in (*config.lattices, *SEARCHED_WITHOUT):
        q = quantizer(spec)
        assert isinstance(q, BlockFormat)
        equal = squares_of_pairs((w, q.roundtrip(w, imatrix=ones)) for w in arrays)
        row = {"kind": "importances", "population": "normal", "spec": spec}
        row |= {"bits_per_weight": q.bits_per_weight(config.shape)} | columns(sqnr_db=equal.sqnr_db)
        if not q.needs_imatrix:
            row |= columns(gain_db=decibels(squares(arrays, q).error, equal.error))
        rows.append(row)
    return rows


def bytes_stored() -> list[dict[str, Any]]:
    """Bits a weight of a 4096 × 4096 matrix, and what part they are of those of float16."""
    stored = {spec: quantizer(spec).bits_per_weight(MATRIX) for spec in FAMILY_OF}
    return [
        {"kind": "memory", "family": FAMILY_OF[spec], "spec": spec, "bits_per_weight": bits, "of_f16": bits / 16}
        for spec, bits in stored.items()
    ]


def summary(rows: Rows) -> str:
    """Which format wins at each budget of bits on each population, and what equal importances gain."""
    budgets_of: dict[str, list[float]] = {}
    for (budget,), won in rows.where(kind="winner").groups("budget").items():
        budgets_of.setdefault(said_of(won), []).append(budget)
    parts = (f"{winner} within {span(budgets)}" for winner, budgets in budgets_of.items())
    said = f"Most SQNR for the bits per weight: {'; '.join(parts)}."
    gains = [f"{r['spec']} {r['gain_db']:.1f} dB" for r in rows.where(kind="importances") if "gain_db" in r]
    return f"{said} Equal importances add {', '.join(gains)}." if gains else said


def said_of(won: Rows) -> str:
    """The winner at one budget, or each winner with the populations on which it wins."""
    on = {specs: ", ".join(won.where(specs=specs).values("population")) for specs in won.values("specs")}
    if len(on) == 1:
        return next(iter(on))
    return " and ".join(f"{specs} on {names}" for specs, names in on.items())


def span(budgets: list[float]) -> str:
    return f"{budgets[0]:g}" if len(budgets) == 1 else f"{budgets[0]:g} to {budgets[-1]:g}"


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "casts": Style(BLACK, "x", "casts"),
    "integers": Style(BLUE, "o", "integers"),
    "floats, codebooks": Style(ORANGE, "s", "floats, codebooks"),
    "MX, NVFP4": Style(GREEN, "D", "MX, NVFP4"),
    "GGUF q_0, q_1": Style(PURPLE, "^", "GGUF q_0, q_1"),
    "GGUF K": Style(VERMILION, "v", "GGUF K"),
    "GGUF iq4, tq": Style(SKY, "*", "GGUF iq4, tq"),
    "GGUF lattices": Style("0.45", "P", "GGUF lattices"),
}


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("acd;bef;bgl", height=5.5)
    sqnr_against_bits(panels["a"], rows.where(population="normal"))
    bytes_of_each_size(panels["b"], rows.where(kind="memory"))
    for letter in "cdefgl":
        panels[letter].axis("off")
    for letter, name in zip("cdefg", rows.where(kind="winner").values("population"), strict=False):
        panels[letter].axis("on")
        below_the_bound(panels[letter], rows.where(population=name))
        panels[letter].set_title(name)
    for letter in "ceg":
        panels[letter].set_ylabel("dB below the bound")
    for letter in "fg":
        panels[letter].set_xlabel("true bits per weight")
    look = {"loc": "center", "labelspacing": 0.3, "borderpad": 0, "title_fontsize": 6.5}
    panels["l"].legend(*panels["c"].get_legend_handles_labels(), title="i = int8:channel:minmax", **look)
    plotting.letter(panels[letter] for letter in "abcdefg")
    return figure


def each_family(ax: Axes, rows: Rows, y: str) -> None:
    for family, style in STYLES.items():
        plotting.points(ax, rows.where(family=family), "bits_per_weight", y, series=style, ms=3, mew=0.6)


def line(ax: Axes, rows: Rows, y: str, **look: Any) -> None:
    plotting.prediction(ax, rows.column("bits_per_weight"), rows.column(y).astype(float), **look)


def sqnr_against_bits(ax: Axes, rows: Rows) -> None:
    plotting.prediction(ax, [0, 16.5], [0, 16.5 * ONE_BIT_DB], linestyle="-", color="0.1")
    line(ax, rows.where(kind="codebook"), "sqnr_db")
    each_family(ax, rows.where(kind="sqnr"), "sqnr_db")
    plotting.note(ax, 15.6, 47, "A61: bf16", ha="right")
    plotting.note(ax, 10.2, 9, "A62: int4", ha="right")
    plotting.note(ax, 9.8, 76, "rate–distortion:\n6.02 dB a bit", ha="right")
    ax.set(xlabel="true bits per weight", ylabel="SQNR, normal (dB)", ylim=(0, 100), xlim=(0, 17))


def bytes_of_each_size(ax: Axes, rows: Rows) -> None:
    """A bar for each size, with the shortest name of those that have it and how many others there are."""
    sized = Rows(r | {"size": round(100 * r["of_f16"])} for r in rows)
    labels = []
    for place, ((size,), same) in enumerate(sorted(sized.groups("size").items())):
        named = min(same, key=lambda r: (r["family"] == "casts", len(r["spec"])))
        labels.append(named["spec"] + (f" + {len(same) - 1}" if len(same) > 1 else ""))
        ax.barh(place, size, color=STYLES[named["family"]].color, height=0.75)
        plotting.note(ax, 2, place, str(size), fontsize=6, va="center", color="w")
    ax.set_yticks(range(len(labels)), labels, fontsize=6)
    plotting.mark_claim(ax, 50, len(labels) - 4, "A31: half", offset=(6, -2))
    ax.set(xlabel="bytes (% of f16)", ylim=(-0.6, len(labels) - 0.4))


def below_the_bound(ax: Axes, rows: Rows) -> None:
    seen = rows.where(kind="sqnr")
    first = Rows(r for r in rows.where(kind="winner") if r["budget"] < 16).values("first")
    won = Rows(seen.where(spec=spec)[0] for spec in first)
    plotting.prediction(ax, [0, 12], [0, 0], linestyle="-", color="0.1", label="Shannon's bound")
    line(ax, rows.where(kind="codebook"), "below_bound_db", label="best codebook (Lloyd–Max)")
    line(ax, won, "below_bound_db", linestyle="-", color="0.6", label="winners")
    each_family(ax, seen, "below_bound_db")
    line(ax, seen, "predicted_below_bound_db", linestyle="none", marker="_", ms=5, mew=0.6, label="theory")
    for x, r in zip(moved_apart(won.column("bits_per_weight"), 0.52), won, strict=True):
        name = "i" if "minmax" in r["spec"] else r["spec"]
        plotting.note(ax, x, -0.8, name, fontsize=6, rotation=90, ha="center", va="bottom")
    if seen.where(spec="int8:tensor").one("below_bound_db") > 27:
        plotting.note(ax, 7.8, 26, "int8:tensor ↓", fontsize=6, ha="right")
    ax.set(xlim=(0.4, 9.2), ylim=(27, -10), yticks=(0, 10, 20))


def moved_apart(x: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Increasing places pushed aside, a little at a time, until none is nearer to its neighbour than ``least``."""
    for _ in range(40):
        push = np.maximum(least - np.diff(x), 0) / 2
        x = x - np.append(push, 0) + np.append(0, push)
    return x


# --- the verdicts ---------------------------------------------------------------------------------------------------


def least_saving(rows: Rows) -> float:
    """Smallest part of the bytes of float16 that one of five int8 formats saves."""
    return min(1 - r["of_f16"] for r in rows.where(kind="memory") if r["spec"] in INT8)


def above_q8_0(rows: Rows, specs: tuple[str, ...]) -> list[Estimate]:
    """SQNR less that of q8_0, in dB, for each population and format."""
    found = []
    for seen in rows.where(kind="sqnr").groups("population").values():
        at = {r["spec"]: Estimate(r["sqnr_db"], r["sqnr_db_se"]) for r in seen}
        found += [difference(at[spec], at["q8_0"]) for spec in specs]
    return found


def one_bit_above_q8_0(rows: Rows) -> float:
    """Share of populations × (f16, bf16) at least 6.02 dB above q8_0."""
    return share(gain.value >= ONE_BIT_DB for gain in above_q8_0(rows, ("f16", "bf16")))


def best_of_int4(rows: Rows) -> Estimate:
    """What the best of populations × int4 formats has more than q8_0."""
    return max(above_q8_0(rows, INT4))


def opposite(value: float, se: float) -> Verdict:
    return "self-contradiction" if value < -CLEARLY * se else "holds"


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A31",
        statement="memory −50 %",
        definition="smallest saving of five int8 formats in bytes of a 4096 × 4096 matrix, against f16",
        number=least_saving,
        rule=stated(0.5, 0.05),
        reading="{value:.1%} in q8_0, which stores a scale for 32 weights, 49.9 % with a scale a row",
    ),
    Claim(
        "A61",
        statement="mitigation: stay at FP16/BF16",
        definition="share of populations × (f16, bf16)",
        number=one_bit_above_q8_0,
        rule=share_of_cases("its SQNR is at least one bit, 6.02 dB, above that of q8_0"),
        reading="for 7.5 bits more, which finer codes would turn into 45 dB: bf16 into 7 to 14, f16 into 25 to 32",
    ),
    Claim(
        "A62",
        statement='mitigation: "or try INT4"',
        definition="SQNR (dB) of int4 less that of q8_0, in the best of populations × five int4 formats",
        number=best_of_int4,
        rule=Rule(
            "contradicts itself if negative: listed under 'higher precision', it has more error; holds otherwise",
            opposite,
        ),
        reading="{value:.1f} dB at best, under 'higher precision'",
    ),
)
