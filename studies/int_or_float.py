"""Four bits: integers or floats, in which blocks, under which scale, and does a rotation turn the answer round?

Method. int4, e2m1, e1m2, e3m0 and nf4 under ten scales (powers of two by four rules; unsigned floats of five and four
exponent bits, the latter with a scale of the tensor, too; f16, bf16, f32) in blocks of 8 to 128, on five populations,
as they are and after Hadamard rotations of 64. Then blocks of a given crest factor, max |w| / rms: normal blocks as
they come, and normal blocks raised to the power that gives it. Last small weights, whose scales a format of few
exponents stores badly. Printed numbers are set beside what the same setting gives here.
Expected. An integer's error is that of its step, so its SQNR falls 6 dB as the crest factor doubles, a float's hardly;
they cross once. Rotations bring every population to the normal's crest factor. Published formulas take 8 for the 7
steps of int4 (arXiv:2510.25602v1), so crossings should lie lower than printed: at 1.73 under powers of two and 2.15
under e4m3, not at 2.04 and 2.39.
Refuted if they do not, or depend on how blocks come to their crest factor, or rotated weights differ from normal ones.
Half of it is. They cross at 1.71 to 1.83 and at 2.28 to 2.39, the shape of the blocks deciding. And a rotation of 16
brings heavy tails beyond the normal: their crest factor falls below its, int4 errs less than on normal weights and
e2m1 more, until hundreds of inputs are rotated together.
Theory does not lie on nf4 under ue4m3 alone on t3 weights, by up to 19 standard errors: such scales end at 448, and
one weight in 2e8, more than a sample here holds, lies beyond and adds E[(|x| - 448)^2; |x| > 448] = 9.5e-4 of the
variance to the mean; what is missing in blocks of 8 is 9.1e-4.

Settles nothing of the ledger.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from quantsim.lab import plotting
from quantsim.lab.claims import Claim
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, decibels
from quantsim.measure.squares import squares
from quantsim.numerics import hadamard
from quantsim.populations import parse as population
from quantsim.populations import samples
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

from . import _block_formats as published
from . import _crest as crest
from . import _small_scales as small
from ._axes import logarithmic

ELEMENTS = ("int4", "e2m1", "e1m2", "e3m0", "nf4")
SCALES = (
    *("e8m0", "e8m0:even", "e8m0:ceil", "e8m0:rceil"),
    *("ue4m3", "ue4m3+f32", "ue5m3"),
    *("f16", "bf16", "f32"),
)
NONE = {("nf4", "e8m0:even")}  # a codebook has no digits that the largest weight could be rounded to
BLOCKS = (8, 16, 32, 64, 128)
PLAIN = "none"
ROTATIONS = (PLAIN, *hadamard.KINDS)


@dataclass(frozen=True)
class Config:
    """Weights of the grid, blocks of given crest factors, small weights."""

    populations: tuple[str, ...] = ("normal", "laplace", "t5", "t3", "uniform")
    elements: tuple[str, ...] = ELEMENTS
    scales: tuple[str, ...] = SCALES
    blocks: tuple[int, ...] = BLOCKS
    rotated: int = 64
    sizes: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    shape: tuple[int, int] = (64, 4096)
    arrays: int = 8
    crests: tuple[float, ...] = tuple(round(1.1 + 0.1 * k, 1) for k in range(30))
    quantiles: tuple[float, ...] = (0.0, 0.002, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
    blocks_of_a_unit: int = 512
    sigmas: tuple[float, ...] = logarithmic(3e-4, 0.3, 19)
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Two populations, two elements, few scales."""
        return cls(
            populations=("normal", "t3"),
            elements=("int4", "e2m1"),
            scales=("e8m0:rceil", "ue4m3+f32"),
            blocks=(16, 32),
            sizes=(16, 64),
            shape=(16, 1024),
            arrays=2,
            crests=(1.4, 2.0, 2.8),
            quantiles=(0.0, 0.5, 1.0),
            blocks_of_a_unit=32,
            sigmas=(1e-3, 1e-1),
        )


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each population, for blocks of each size, small weights, and what was printed."""
    for name in config.populations:
        yield f"{name}", partial(grid, config, name)
        yield f"rotations of {name}", partial(rotation_sizes, config, name)
    for n in sorted({pair.block for pair in crest.PAIRS}):
        yield f"crest factors in blocks of {n}", partial(by_crest, config, n)
    yield "small weights", partial(small.by_sigma, config.sigmas, config.shape, arrays=config.arrays, seed=config.seed)
    yield "printed", partial(published.rows, arrays=config.arrays, seed=config.seed, small=config.shape[0] < 64)


# --- the grid -------------------------------------------------------------------------------------------------------


def arrays_of(config: Config, name: str) -> Float[Array, "arrays rows columns"]:
    """Independent arrays of a population."""
    return samples(population(name), array_keys(config.seed, name, config.arrays), config.shape)


def turned(w: Float[Array, "arrays rows columns"], kind: str, size: int) -> Float[Array, "arrays rows columns"]:
    """Arrays in rotated coordinates: a quantizer errs there as one that is rotated errs here."""
    return w if kind == PLAIN else hadamard.turned(w, kind, size)  # pyright: ignore[reportArgumentType]


def grid(config: Config, name: str) -> list[dict[str, Any]]:
    """SQNR of every element under every scale in every block, rotated or not, and what it is ahead of int4."""
    given, rows = arrays_of(config, name), []
    for rotation in ROTATIONS:
        w = turned(given, rotation, config.rotated)
        theory_knows = rotation == PLAIN or name == "normal"
        for scale in config.scales:
            for block in config.blocks:
                elements = [e for e in config.elements if (e, scale) not in NONE]
                found = {e: squares(w, parse(f"{e}:block{block}:absmax:{scale}")) for e in elements}
                for element, of in found.items():
                    q = parse(f"{element}:block{block}:absmax:{scale}")
                    about = {"kind": "grid", "population": name, "rotation": rotation, "scale": scale, "block": block}
                    about |= {"element": element, "bits": q.bits_per_weight(config.shape), "weights": given.size}
                    about |= columns(sqnr_db=of.sqnr_db, over_int4_db=decibels(found["int4"].error, of.error))
                    told = predicted_sqnr_db(population(name), q, config.shape) if theory_knows else None
                    rows.append(about | {"predicted_sqnr_db": told})
    return rows


def rotation_sizes(config: Config, name: str) -> list[dict[str, Any]]:
    """SQNR against how many inputs are rotated together, in blocks of 16 under two levels; 0 for none."""
    given, rows = arrays_of(config, name), []
    for kind in hadamard.KINDS:
        for size in (0, *config.sizes):
            w = turned(given, kind if size else PLAIN, size)
            crests = crest.crest_factors(w.reshape(-1, 16))
            for element in config.elements:
                of = squares(w, parse(f"{element}:block16:absmax:ue4m3+f32"))
                about = {"kind": "rotation", "population": name, "rotation": kind, "size": size, "element": element}
                rows.append(about | {"crest": float(np.median(crests))} | columns(sqnr_db=of.sqnr_db))
    return rows


def by_crest(config: Config, n: int) -> list[dict[str, Any]]:
    """Both ways to blocks of a crest factor, then where integers and floats cross, beside what was printed."""
    many = {"units": config.arrays, "blocks": config.blocks_of_a_unit, "seed": config.seed}
    rows = [*crest.of_shaped(n, config.crests, **many)]
    rows += crest.of_natural(n, config.quantiles, **many | {"blocks": 32 * config.blocks_of_a_unit})
    return rows + published.crossings(rows, n)


# --- what the rows say ----------------------------------------------------------------------------------------------


def summary(rows: Rows) -> str:
    """One sentence: where integers and floats cross, what small weights do, how many printed numbers agree."""
    at = ", ".join(
        f"{r['pair']} at {r['measured']:.2f} (printed {r['printed']:g})"
        for r in rows.where(kind="printed", way=crest.SHAPED)
        if r["measured"] is not None
    )
    printed = rows.where(kind="printed")
    right = sum(bool(r["agrees"]) for r in printed)
    return f"Integers and floats cross at crest factors of {at}; {right} of {len(printed)} printed numbers agree."


# --- the figure -----------------------------------------------------------------------------------------------------

PAIR_STYLES = plotting.styles([pair.name for pair in crest.PAIRS])
SCALE_STYLES = plotting.styles({rule: rule.replace("absmax:", "") for rule in small.RULES})
ELEMENT_STYLES = plotting.styles(ELEMENTS)
TAILED = "t3"
UNNAMED = "_"  # in a legend
SHOWN = (("e8m0:rceil", 32), ("bf16", 32), ("ue4m3", 16), ("ue4m3+f32", 16), ("ue4m3+f32", 8))


def draw(rows: Rows) -> plotting.Figure:
    """Crest factors, populations, small weights."""
    figure, axes = plotting.mosaic("aaabbbcccc;dddeeeffff", height=5.6)
    of_pairs(axes["a"], rows, crest.PAIRS[:2])
    of_pairs(axes["b"], rows, crest.PAIRS[2:])
    who_is_ahead(axes["c"], rows.where(kind="grid"))
    against_sigma(axes["d"], rows.where(kind="sigma"))
    causes(axes["e"], rows.where(kind="sigma", rule=small.RULES[0], block=8))
    against_size(
        axes["f"], rows.where(kind="rotation", population=rows.where(kind="rotation").values("population")[-2])
    )
    plotting.letter(axes.values())
    return figure


def of_pairs(ax: plotting.Axes, rows: Rows, pairs: tuple[crest.Pair, ...]) -> None:
    """What the integer is ahead against the crest factor: by formula, in shaped blocks, in those that come (open)."""
    for pair in pairs:
        style, own = PAIR_STYLES[pair.name], rows.where(kind="crest", pair=pair.name)
        plotting.measured(ax, own.where(way=crest.SHAPED), "crest", "ahead_db", series=style)
        plotting.points(ax, own.where(way=crest.NATURAL), "crest", "ahead_db", series=style, label=UNNAMED, mfc="w")
        if pair.printed <= pair.block**0.5:
            right = pair.two_level or pair is not pairs[0]
            offset = (4, 5) if right else (-4, -20)
            plotting.mark_claim(
                ax, pair.printed, 0.0, f"printed\n{pair.printed:g}", offset=offset, ha="left" if right else "right"
            )
    ax.axhline(0.0, color="0.1", lw=0.6)
    ax.set(xlabel="crest factor max |w| / rms", ylabel="integer ahead of float (dB)")
    ax.legend(fontsize=plotting.NOTE)


def who_is_ahead(ax: plotting.Axes, rows: Rows) -> None:
    """e2m1 over int4 in dB: populations, as they are and rotated, against scales."""
    shown = []
    for r in rows.where(element="e2m1"):
        if (r["scale"], r["block"]) in SHOWN and r["rotation"] in (PLAIN, hadamard.KINDS[1]):
            label = r["population"] + (", rotated" if r["rotation"] != PLAIN else "")
            lines = [*re.split(r":|(?=\+)", r["scale"]), str(r["block"])]
            shown.append(r | {"row": label, "column": "\n".join(lines), "text": f"{r['over_int4_db']:+.1f}"})
    of = Rows(shown)
    values = of.grid(x="column", y="row", value="over_int4_db")
    plotting.heat_map(ax, values, texts=of.grid(x="column", y="row", value="text"), cmap="PuOr", vmin=-4, vmax=4)
    ax.tick_params(labelsize=5.5)
    ax.set_xlabel("scale, block: e2m1 over int4 (dB)")


def against_sigma(ax: plotting.Axes, rows: Rows) -> None:
    """SQNR of e2m1 against σ: blocks of 8 filled, of 16 open."""
    for rule, style in SCALE_STYLES.items():
        for block, look in ((8, {}), (16, {"mfc": "w", "label": UNNAMED})):
            own = rows.where(rule=rule, block=block)
            plotting.points(ax, own, "sigma", "sqnr_db", series=style, **look)
            plotting.prediction(ax, own.column("sigma"), own.column("predicted_sqnr_db"), series=style)
    ax.set(xscale="log", xlabel="σ of normal weights", ylabel="SQNR of e2m1 (dB)", ylim=(-1, 24))
    look = {"fontsize": plotting.NOTE, "title_fontsize": plotting.NOTE, "handlelength": 1.0, "borderaxespad": 0.1}
    ax.legend(loc="lower right", title="8 (open: 16)", **look)


def causes(ax: plotting.Axes, rows: Rows) -> None:
    """Where the squared error of blocks of 8 lies: in blocks whose scale is 0, a subnormal number, a normal one."""
    sigma = rows.column("sigma")
    parts = [rows.column(f"error_of_{name}") for name in small.KINDS]
    colors = [plotting.VERMILION, plotting.ORANGE, plotting.SKY]
    ax.stackplot(sigma, *parts, labels=[f"scale {name}" for name in small.KINDS], colors=colors)
    ax.set(xscale="log", xlabel="σ, blocks of 8 under ue4m3", ylabel="share of the squared error", ylim=(0, 1))
    ax.legend(fontsize=plotting.NOTE, loc="lower left", frameon=True, framealpha=1.0)


def against_size(ax: plotting.Axes, rows: Rows) -> None:
    """SQNR of heavy tails against the size of a rotation."""
    own = rows.where(rotation=hadamard.KINDS[1])
    places = {size: k for k, size in enumerate(own.values("size"))}
    for element, style in ELEMENT_STYLES.items():
        if element == "e1m2":  # int4 in halves: the same errors
            continue
        of = Rows(r | {"place": places[r["size"]]} for r in own.where(element=element))
        plotting.curve(ax, of.column("place"), of.column("sqnr_db"), se=of.column("sqnr_db_se"), series=style, ms=2.6)
    ax.set_xticks(range(len(places)), [str(size or PLAIN) for size in places])
    name = rows.values("population")[0]
    ax.set(xlabel=f"inputs rotated together ({name})", ylabel="SQNR, blocks of 16 (dB)")
    ax.legend(fontsize=plotting.NOTE)


CLAIMS: tuple[Claim, ...] = ()
