"""What does quantization cost a real language model, Gemma 3 270M, under every format and policy?

Method. Passages of Python's documentation are read by the unquantized model and by the same under each format, token by
token: the Kullback-Leibler divergence (KL) of the predictions, the change of the loss (ΔNLL), how often the most likely
token is another. Formats quantize every matrix, the embedding that is also the last product included; policies quantize
the layers and leave the embedding. K-quants fall back where rows of 640 do not hold blocks of 256, as in llama.cpp. All
of it twice: weights as the file (Q4_K_M) dequantizes to, which flatters formats that know its grids, and weights spread
within the cells of their codes, which flatters none. Then int4 in one layer or one type alone: do their KLs add up, and
is each known beforehand, from the weight error r, or from S r² with the sensitivity S to 1 % of noise?
Expected. KL by the size of the error, as in the small models (`language_model`): 8 bits under 0.01 nats, 4 bits tenths.
Published: sums of KLs over the KL of the whole lie within 0.74 to 1.11; weight error ranks layers no better than
chance; differences of remedies at four bits lie within the noise of a benchmark.
Refuted if the sums lie outside, weight error ranks layers clearly, or remedies differ by three standard errors.

Needs the extra ``real``: ``quantsim run --real real_llm``. Settles nothing of the ledger.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quantsim.lab import plotting
from quantsim.lab.claims import Claim
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, mean, ratio
from quantsim.rows import Rows
from quantsim.tree import QuantizedTree, Treatment, documents_strategy, progressive

from . import _real as real
from ._real import FILE, REFERENCES, SPREAD, TYPES, Reading, Subject

NEEDS_REAL_MODEL = True

FORMATS = (
    "q8_0",
    "q6_k",
    "q5_k",
    "q5_0",
    "q4_k",
    "q4_0",
    "iq4_nl",
    "q3_k",
    "q2_k",
    "mxfp8_e4m3",
    "mxfp4",
    "nvfp4",
    "nf4:block64",
    "e4m3:channel",
    "int8:tensor",
    "int8:channel",
    "int4:block32",
    "int4:channel",
)
LAYERS = 18
ROUNDING = "int4:block32"
GPTQ, AWQ, SMOOTHED = f"{ROUNDING} + gptq", f"{ROUNDING} + awq", "W8A8 + smoothquant"
REMEDIES = (f"{ROUNDING}:mse", GPTQ, AWQ, "q4_0", "nvfp4")
#: What the layers get; the embedding is left as it is.
POLICIES: dict[str, Any] = {
    "int8:tensor": {"blk.*": "int8:tensor"},
    "documents' strategy": documents_strategy(),
    "int4:channel, last third kept": progressive(LAYERS, "int4:channel", None),
    "int4:channel, first third kept": progressive(LAYERS, None, "int4:channel", share=1 / 3),
    "W8A16": {"blk.*": "int8:channel"},
    "W8A8": {"blk.*": Treatment("int8:channel", "int8:channel")},
    SMOOTHED: {"blk.*": Treatment("int8:channel", "int8:channel", "smoothquant")},
    "W4A8": {"blk.*": Treatment(ROUNDING, "int8:channel")},
    ROUNDING: {"blk.*": ROUNDING},
    f"{ROUNDING}:mse": {"blk.*": f"{ROUNDING}:mse"},
    GPTQ: {"blk.*": Treatment(ROUNDING, mitigation="gptq")},
    AWQ: {"blk.*": Treatment(ROUNDING, mitigation="awq")},
    "q4_0": {"blk.*": "q4_0"},
    "nvfp4": {"blk.*": "nvfp4"},
}
NOISE = 0.01  # relative, from which sensitivities are read
PUBLISHED_SUMS = (0.74, 1.11)


@dataclass(frozen=True)
class Config:
    """References, formats, policies, and how much text."""

    references: tuple[str, ...] = REFERENCES
    formats: tuple[str, ...] = FORMATS
    policies: tuple[str, ...] = tuple(POLICIES)
    layers: int = LAYERS
    types: tuple[str, ...] = TYPES
    reading: Reading = Reading(4, 257)
    parts_of: tuple[str, ...] = (SPREAD,)
    alone: Reading = Reading(4, 65)
    calibration: Reading = Reading(8, 129, shift=0.5)
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One reference, few formats, little text."""
        return cls(
            references=(SPREAD,),
            formats=("q8_0", ROUNDING),
            policies=("int8:tensor", ROUNDING),
            layers=2,
            types=TYPES[:1],
            reading=Reading(2, 33),
            alone=Reading(2, 33),
        )


def measure(config: Config) -> Iterator[Cell]:
    """Cells of each reference: its own loss, every format, every policy, parts alone."""
    for reference in config.references:
        yield f"{reference}, loss", partial(loss, config, reference)
        for spec in config.formats:
            yield f"{reference}, format {spec}", partial(one_format, config, reference, spec)
        for name in config.policies:
            yield f"{reference}, policy {name}", partial(one_policy, config, reference, name)
    for reference in config.parts_of:
        yield f"{reference}, alone", partial(alone, config, reference)


def loss(config: Config, reference: str) -> list[dict[str, Any]]:
    """Loss and perplexity of the unquantized model."""
    of = real.subject(reference, config.reading)
    found = mean(real.token_nll(of))
    perplexity = Estimate(float(np.exp(found.value)), float(np.exp(found.value)) * found.se)
    about = {"kind": "loss", "reference": reference, "tokens": of.tokens[:, 1:].size}
    return [about | columns(loss=found, perplexity=perplexity)]


def one_format(config: Config, reference: str, spec: str) -> list[dict[str, Any]]:
    """Every matrix in a format."""
    of = real.subject(reference, config.reading)
    found = real.quantized(of, spec)
    return [{"kind": "format", "reference": reference, "spec": spec} | told(of, found)]


def one_policy(config: Config, reference: str, name: str) -> list[dict[str, Any]]:
    """The layers under a policy."""
    of = real.subject(reference, config.reading)
    found = real.quantized(of, POLICIES[name], config.calibration)
    bits = found.bits_of(*real.matrices(of.params))
    return [{"kind": "policy", "reference": reference, "spec": name} | told(of, found) | {"layer_bits": bits}]


def told(of: Subject, found: QuantizedTree) -> dict[str, Any]:
    """Types that were used, bits per weight of all matrices, and what it costs."""
    used = ", ".join(dict.fromkeys(found.quantizers.values()))
    return {"used": used, "bits": found.bits_per_weight} | real.columns_of(real.of_tree(of, found))


# --- parts alone ----------------------------------------------------------------------------------------------------


def alone(config: Config, reference: str) -> list[dict[str, Any]]:
    """int4 in each layer, and in each type of matrix, alone, and in all layers; the same matrices under noise."""
    of = real.subject(reference, config.alone)
    whole = real.quantized(of, {"blk.*": ROUNDING}).params
    rows = []
    for part, name, names in parts(config, of):
        changed = {n: whole[n] if n in names else w for n, w in of.params.items()}
        r = real.relative_error(of.params, changed)
        of_noise = real.damage(of, real.noisy(of.params, names, NOISE, config.seed)).kl
        about = {"kind": "alone", "reference": reference, "part": part, "name": name, "rel_rms": r}
        about |= {
            "sensitivity": float(of_noise.mean()) / NOISE**2,
            "predicted": float(of_noise.mean()) * (r / NOISE) ** 2,
        }
        found = real.damage(of, changed)
        rows.append(about | real.columns_of(found) | {"kl_blocks": found.kl.tolist()})
    return rows


def parts(config: Config, of: Subject) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, name and matrices of each part: layers, types, the whole."""
    names = list(real.matrices(of.params))
    for layer in range(config.layers):
        yield "layer", str(layer), [n for n in names if n.startswith(f"blk.{layer}.")]
    for kind in config.types:
        yield "type", kind, [n for n in names if n.endswith(kind)]
    yield "whole", "all layers", names


# --- what the rows say ----------------------------------------------------------------------------------------------


def sums_over_whole(rows: Rows, part: str) -> Estimate:
    """Sum of the KLs of parts alone over the KL of the whole, paired block by block."""
    found = rows.where(kind="alone")
    blocks = np.sum([r["kl_blocks"] for r in found.where(part=part)], axis=0)
    return ratio(blocks, found.where(part="whole").one("kl_blocks"))


def rank_correlation(rows: Rows, part: str, column: str) -> float:
    """Spearman's, of a column with the KL of parts alone."""
    found = rows.where(kind="alone", part=part)
    if len(found) < 3:
        return float("nan")
    correlation: Any = stats.spearmanr(found.column(column), found.column("kl"))
    return float(correlation.statistic)


def gained(rows: Rows, remedy: str) -> Estimate:
    """ΔNLL of plain rounding of the layers less that of a remedy, paired block by block."""
    blocks = (np.array(rows.where(kind="policy", spec=spec).one("nll_blocks")) for spec in (ROUNDING, remedy))
    plain, after = blocks
    return mean(plain - after)


def remedies(rows: Rows) -> list[str]:
    """Those that were measured beside plain rounding."""
    measured = rows.where(kind="policy").values("spec")
    return [r for r in REMEDIES if r in measured and ROUNDING in measured]


def summary(rows: Rows) -> str:
    """One sentence: perplexity, what 8 and 4 bits cost, whether parts add up, and what predicts them."""
    texts = []
    for reference in rows.values("reference"):
        own = rows.where(reference=reference)
        costs = ", ".join(f"{r['spec']} {r['kl']:.2g}" for r in own.where(kind="format") if r["spec"] in TOLD)
        gains = ", ".join(f"{r} {g.value:.2g} ± {g.se:.1g}" for r in remedies(own) for g in [gained(own, r)])
        texts.append(
            f"{reference}: perplexity {own.where(kind='loss').one('perplexity'):.1f}; KL {costs}; "
            f"what remedies at 4 bits gain over rounding in ΔNLL: {gains or 'not measured'}"
        )
        if own.where(kind="alone"):
            texts.append(of_parts(own))
    return f"Gemma 3 270M, {'. '.join(texts)}."


def of_parts(rows: Rows) -> str:
    """Whether parts alone add up, and what ranks them."""
    sums = ", ".join(f"{p}s {e.value:.2f} ± {e.se:.1g}" for p in PARTS for e in [sums_over_whole(rows, p)])
    ranks = ", ".join(f"{rank_correlation(rows, p, c):.2f} by {n} ({p}s)" for p in PARTS for c, n in PREDICTORS.items())
    return f"KLs of {ROUNDING} in parts alone over that of the whole: {sums}; rank correlation with them: {ranks}"


PARTS = ("layer", "type")
TOLD = ("q8_0", "q4_k", ROUNDING, "int4:channel")
PREDICTORS = {"rel_rms": "weight error", "predicted": "S r²"}

# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles({FILE: "weights of the file", SPREAD: "spread in their cells"})


def draw(rows: Rows) -> plotting.Figure:
    """What formats and policies cost, KL and ΔNLL; parts alone against their prediction; remedies."""
    fig, axes = plotting.mosaic("aab;aab;ccd;ccd;eef", height=7.6)
    for first, kind in (("a", "format"), ("c", "policy")):
        found = rows.where(kind=kind)
        by_name(axes[first], found, "kl")
        by_name(axes[chr(ord(first) + 1)], found, "nll")
        axes[first].set(xscale="log")
    if alone_rows := rows.where(kind="alone"):
        predicted(axes["e"], alone_rows)
    what_remedies_gain(axes["f"], rows)
    perplexities = (f"{r['reference']} {r['perplexity']:.1f}" for r in rows.where(kind="loss"))
    axes["a"].set_title(f"all matrices; perplexity unquantized: {', '.join(perplexities)}", fontsize=plotting.NOTE)
    axes["c"].set_title("layers, the embedding as it is", fontsize=plotting.NOTE)
    axes["a"].legend(loc="lower left")
    plotting.letter([axes[name] for name in "abcdef"])
    return fig


AXES = {"kl": "KL (nats per token)", "nll": "ΔNLL (nats per token)"}


def by_name(ax: plotting.Axes, rows: Rows, column: str) -> None:
    """A column of each format or policy, the cheapest in KL first."""
    names = Rows(sorted(rows, key=lambda r: r["kl"])).values("spec")
    for shift, (reference, style) in zip((-0.12, 0.12), STYLES.items(), strict=True):
        found = rows.where(reference=reference)
        if found:
            places = np.array([names.index(r["spec"]) for r in found])
            plotting.dots(ax, found, column, places + shift, series=style, ms=3)
    ax.set(xlabel=AXES[column], ylim=(len(names) - 0.4, -0.6))
    labels = [labelled(rows.where(spec=name)) if column == "kl" else "" for name in names]
    ax.set_yticks(range(len(names)), labels, fontsize=5.5)


def labelled(rows: Rows) -> str:
    """A name with the types that it fell back to and the bits that it takes; of policies, in the layers."""
    row = rows[0]
    others = [used for used in row["used"].split(", ") if used != row["spec"]]
    fell = f" ({', '.join(others)})" if others and row["kind"] == "format" else ""
    return f"{row['spec']}{fell}  {row.get('layer_bits') or row['bits']:.2f}"


def predicted(ax: plotting.Axes, rows: Rows) -> None:
    """KL of parts alone against S r²."""
    for reference, style in STYLES.items():
        for part, face in (("layer", style.color), ("type", "w")):
            found = rows.where(reference=reference, part=part)
            if found:
                look = {"ls": "none", "marker": style.marker, "color": style.color, "mfc": face, "ms": 3}
                ax.plot(found.column("predicted"), found.column("kl"), **look)
    ends = spanned(rows, "predicted", "kl")
    plotting.prediction(ax, ends, ends)
    ax.set(xscale="log", yscale="log", xlabel="S r², from noise", ylabel="KL, int4 in a part alone")
    words = [f"published: {PUBLISHED_SUMS[0]} to {PUBLISHED_SUMS[1]}"]
    for part, face in (("type", "hollow"), ("layer", "filled")):
        sums = (f"{sums_over_whole(rows.where(reference=r), part).value:.2f}" for r in rows.values("reference"))
        words.append(f"{part}s, {face}: sum / whole {', '.join(sums)}")
    for place, line in enumerate(words):
        plotting.note(ax, 0.97, 0.05 + 0.1 * place, line, transform=ax.transAxes, ha="right")


def spanned(rows: Rows, *names: str) -> NDArray[np.float64]:
    """Least and largest of these columns of parts."""
    values = np.concatenate([rows.column(name) for name in names])
    return np.array([values.min(), values.max()])


def what_remedies_gain(ax: plotting.Axes, rows: Rows) -> None:
    """ΔNLL of rounding less that of each remedy, with its 95 % interval."""
    names = remedies(rows)
    for shift, (reference, style) in zip((-0.12, 0.12), STYLES.items(), strict=True):
        own = rows.where(reference=reference)
        if own and names:
            found = Rows(columns(gain=gained(own, name)) for name in names)
            plotting.dots(ax, found, "gain", np.arange(len(names)) + shift, series=style, ms=3)
    ax.axvline(0, color="0.4", lw=0.7)
    ax.set(xlabel="ΔNLL less than by rounding", ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), names, fontsize=5.5)


CLAIMS: tuple[Claim, ...] = ()
