"""Which parts of a UNet does quantization hurt, and what does it give back to keep some of them?

Method. Weights of each part of three trained UNets of digits are quantized alone, or everything but that part ("leave
one out"), in int8 with one scale and in int4 by blocks; 20 steps of DDIM from the same noise tell how far samples move.
Damage is the squared median distance, which adds up over independent errors. Further: attention switched off, fp8
with a few layers kept, and outlier channels injected where they change nothing (quantsim.models.unet_injection).
Theory. Noise in one matrix alone tells its sensitivity, whatever the format; squares add up over a part's matrices.
Expected. The last convolution writes the predicted noise itself, and the first one all that the others read: these 576
weights of 367,000 make three quarters of the damage, at any number of bits. q, k, v and what stands beside skips are
no more sensitive than their share of the weights says. fp8 with both convolutions kept errs half as much as without.
Outlier columns ×256 cost one scale per tensor, and per row, all they have; blocks of kernels, whose inputs lie nine by
nine, lose three blocks' worth.
Instead the last convolution alone makes four fifths of the damage of int4 blocks, and less than half of that of int8,
where luck made its errors half as large as predicted. What is left by keeping a part is no sum: errors of parts have
signs, and without one of them others may cancel less. fp8 with both convolutions kept errs a third as much.
Outliers ×256 between the upsampler's convolutions cost a scale per tensor or row 22 times its error, q8_0 seven times.
Refuted if some part but these two carries more than a fifth of the damage: panel a.

Settles A49 and A65 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns
from quantsim.models.unet import Params
from quantsim.models.unet_injection import SITES, Injection, inject
from quantsim.rows import Rows

from . import _unet as unet
from . import _unet_parts as parts
from ._unet import MODELS, STANDARD, Subject
from ._unet_parts import ATTENTION, PARTS
from ._unet_sensitivity import DRAWS_OF_FEW, expected, sensitivities

SPECS = ("int8:tensor", "int4:block32")
FP8 = "e4m3:channel"
#: Layers that are left in bfloat16 while the others are fp8; norms and biases always are.
SKIPPED: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "first, last": ("first convolution", "last convolution"),
    "first, last, time": ("first convolution", "last convolution", "time embedding"),
    "attention": ATTENTION,
}
ADVISED = ("q, k, v", "last convolution", "skip-adjacent")
EXACT_STEPS = 200
CUTS = ("int8:tensor", "int8:channel", "q8_0")


@dataclass(frozen=True)
class Config:
    """Networks, parts, specs, what is skipped in fp8, factors of outliers, numbers of samples and of digits."""

    models: tuple[str, ...] = MODELS
    parts: tuple[str, ...] = tuple(PARTS)
    specs: tuple[str, ...] = SPECS
    skipped: tuple[str, ...] = tuple(SKIPPED)
    sites: tuple[str, ...] = tuple(SITES)
    factors: tuple[float, ...] = (1.0, 16.0, 256.0)
    samples: int = 64
    digits: int = 16
    draws: int = DRAWS_OF_FEW  # of noise in a matrix of few weights
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One network, few parts, samples and factors."""
        few = {"parts": ADVISED, "skipped": ("nothing", "first, last"), "sites": ("upsampler",), "factors": (256.0,)}
        return cls(MODELS[:1], specs=SPECS[:1], samples=16, draws=1, **few)


def measure(config: Config) -> Iterator[Cell]:
    """Cells of each network: every part, attention off, fp8, and outliers."""
    for model in config.models:
        for part in config.parts:
            yield f"{model}, {part}", partial(one_part, config, model, part)
        yield f"{model}, attention", partial(attention, config, model)
        yield f"{model}, fp8", partial(fp8, config, model)
        for site in config.sites:
            yield f"{model}, {site}", partial(outliers, config, model, site)


# --- what is measured -----------------------------------------------------------------------------------------------


def compared(config: Config, of: Subject, params: dict[str, Any]) -> dict[str, float]:
    """How samples of other parameters moved."""
    exact = unet.unquantized(of.name, config.samples, seed=config.seed)
    return unet.moved(exact, unet.images(of, params)).columns()


def one_part(config: Config, model: str, part: str) -> list[dict[str, Any]]:
    """A part quantized alone, beside the prediction, and everything but it."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    matrices = unet.matrices(of.params)
    names = parts.names_of(part, matrices)
    weights = sum(w.size for w in matrices.values())
    for spec in config.specs:
        whole = unet.quantized(of, spec)
        alone = unet.quantized(of, dict.fromkeys(names, spec))
        kept = unet.quantized(of, dict.fromkeys(names) | {"*": spec})
        about = {"model": model, "part": part, "spec": spec, "weights": parts.weights_in(part, matrices) / weights}
        relative = {name: r for name, r in unet.relative_errors(of.params, alone.params).items() if name in names}
        found = expected(sensitivities(model, names, draws_of_few=config.draws), relative)
        predicted = {"predicted_distance": found.distance}
        rows.append(about | {"kind": "alone"} | predicted | compared(config, of, alone.params))
        all_moved = compared(config, of, whole.params)["distance"]
        bits = {"extra_bits": kept.bits_per_weight - whole.bits_per_weight, "all_distance": all_moved}
        rows.append(about | {"kind": "kept"} | bits | compared(config, of, kept.params))
    return rows


def attention(config: Config, model: str) -> list[dict[str, Any]]:
    """Samples without any attention, and of as many steps as have the sampler's own error."""
    of = unet.subject(model, config.samples, config.seed)
    exact = unet.unquantized(model, config.samples, EXACT_STEPS, "dpm++2m", config.seed)
    itself = unet.moved(exact, unet.unquantized(model, config.samples, seed=config.seed)).distance
    about = {"kind": "attention", "model": model, "attentions": len(attentions(of.params))}
    about |= columns(sampler=unet.median(itself))
    return [about | compared(config, of, without_attention(of.params))]


def attentions(params: Params) -> list[str]:
    """Where a network attends."""
    return [name.removesuffix(".to_out") for name in params if name.endswith(".to_out")]


def without_attention(params: Params) -> Params:
    """What attention adds is nothing."""
    off = {f"{at}.to_out{end}" for at in attentions(params) for end in ("", ".bias")}
    return {name: jnp.zeros_like(w) if name in off else w for name, w in params.items()}


def fp8(config: Config, model: str) -> list[dict[str, Any]]:
    """fp8 weights with some layers skipped."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    matrices = unet.matrices(of.params)
    for name in config.skipped:
        left = [found for part in SKIPPED[name] for found in parts.names_of(part, matrices)]
        quantized = unet.quantized(of, dict.fromkeys(left) | {"*": FP8})
        about = {"kind": "fp8", "model": model, "skipped": name, "bits": quantized.bits_per_weight}
        rows.append(about | compared(config, of, quantized.params))
    return rows


def outliers(config: Config, model: str, site: str) -> list[dict[str, Any]]:
    """Error of the predicted noise where one channel of each place of a site is that much larger in the weights."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    for factor in config.factors:
        spoiled, _ = inject(of.params, of.config, Injection(site, factor, seed=config.seed))
        same = unet.noise_error(of, spoiled, config.digits).relative().value
        for cut in CUTS:
            params = unet.quantized(of._replace(params=spoiled), cut).params
            about = {"kind": "outliers", "model": model, "site": site, "factor": factor, "spec": cut, "same": same}
            rows.append(about | columns(noise_error=unet.noise_error(of, params, config.digits).relative()))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(MODELS)
CUT_STYLES = {
    "int8:tensor": Style(plotting.VERMILION, "s"),
    "int8:channel": Style(plotting.BLUE, "o"),
    "q8_0": Style(plotting.GREEN, "^"),
}
SITE_LINES = {"upsampler": "-", "attn_norm": "--", "value_output": ":", "query_key": "-."}


def draw(rows: Rows) -> plotting.Figure:
    """Damage of each part alone, what keeping it gives back, fp8, and outliers."""
    fig, axes = plotting.mosaic("aabb;aabb;ccdd", height=5.4)
    alone(axes["a"], rows.where(kind="alone", spec="int8:tensor"))
    carried = f"attention (A49): {damage_of_attention(rows):.1%}\nof the damage"
    plotting.note(axes["a"], 0.98, 0.58, carried, transform=axes["a"].transAxes, ha="right")
    given_back(axes["b"], rows.where(kind="kept", spec=rows.where(kind="kept")[-1]["spec"]))
    fp8_policies(axes["c"], rows.where(kind="fp8"))
    against_factor(axes["d"], rows.where(kind="outliers"))
    plotting.letter([axes[name] for name in "abcd"])
    return fig


def alone(ax: Axes, rows: Rows) -> None:
    """Distance of samples, each part quantized alone, and predictions."""
    names = rows.values("part")
    for model, style in STYLES.items():
        found = rows.where(model=model)
        plotting.dots(ax, found, "distance", [names.index(r["part"]) for r in found], series=style, ms=2.6)
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5), xlabel="int8, one scale, alone: distance (bars: predicted)")
    ax.legend(loc="lower left")


def given_back(ax: Axes, rows: Rows) -> None:
    """Share of the damage that goes with each part, beside its share of the weights."""
    names = rows.values("part")
    for place, name in enumerate(names):
        found = rows.where(part=name)
        ax.plot(found.column("weights")[:1], [place], marker="|", ms=9, color="0.2", ls="none")
        for row in found:
            style = STYLES[row["model"]]
            ax.plot([share_of_damage(row)], [place], marker=style.marker, color=style.color, ms=3, ls="none")
    ax.axvline(0, color="0.5", lw=0.6)
    advised = [f"{name} (A65)" if name in ADVISED else name for name in names]
    ax.set_yticks(range(len(names)), advised)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="share of the damage of int4 given back\n(bars: share of the weights)")


def fp8_policies(ax: Axes, rows: Rows) -> None:
    """fp8 with some layers kept."""
    names = rows.values("skipped")
    for model, style in STYLES.items():
        found = rows.where(model=model)
        plotting.dots(ax, found, "distance", [names.index(r["skipped"]) for r in found], series=style, ms=2.6)
    ax.set_yticks(range(len(names)), [f"kept: {name}" for name in names])
    ax.set(xlim=(0, None), ylim=(len(names) - 0.5, -0.5), xlabel="fp8 (e4m3): median distance / image")


def against_factor(ax: Axes, rows: Rows) -> None:
    """Error of the predicted noise with outlier columns, mean of trainings."""
    for cut, style in CUT_STYLES.items():
        for site, line in SITE_LINES.items():
            found = rows.where(spec=cut, site=site)
            if found:
                factors = found.values("factor")
                mean = [found.where(factor=factor).column("noise_error").mean() for factor in factors]
                label = cut if site == "upsampler" else None
                ax.plot(factors, mean, color=style.color, ls=line, marker=style.marker, ms=2.6, label=label)
    ax.set(xscale="log", yscale="log", xlabel="outlier channels ×", ylabel="error of the\npredicted noise")
    ax.legend(loc="upper left")
    lines = "solid: upsampler, dashed: norm → q, k, v\ndotted: v → out, dash-dotted: k → q"
    plotting.note(ax, 0.02, -0.42, lines, transform=ax.transAxes, va="top")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def share_of_damage(row: dict[str, Any]) -> float:
    """Part of the squared distance of everything quantized that is gone where a part is kept."""
    return 1 - (row["distance"] / row["all_distance"]) ** 2


def worth_keeping(rows: Rows) -> float:
    """Share of advised parts × specs × trainings that give back more of the damage than they hold of the weights."""
    return share(share_of_damage(r) > r["weights"] for r in rows.where(kind="kept") if r["part"] in ADVISED)


def attention_counts(rows: Rows) -> float:
    """Share of trainings that attend somewhere, and whose samples clearly need it."""
    return share(
        r["attentions"] > 0 and Estimate(r["distance"], r["distance_se"]).clearly_above(r["sampler"])
        for r in rows.where(kind="attention")
    )


def damage_of_attention(rows: Rows) -> float:
    """Mean share of the damage of int8, one scale, that goes with each part of attention alone."""
    found = [r for r in rows.where(kind="alone", spec=SPECS[0]) if r["part"] in ATTENTION]
    kept = rows.where(kind="kept", spec=SPECS[0], part=ATTENTION[0])
    return float(sum(r["distance"] ** 2 for r in found) / np.sum(kept.column("all_distance") ** 2))


CLAIMS = (
    Claim(
        "A49",
        statement="UNets contain attention softmax(QKᵀ/√d)V",
        definition="share of three trained UNets that hold self-attention and whose median sample moves clearly "
        f"further without it than {STANDARD} steps are from {EXACT_STEPS}",
        number=attention_counts,
        rule=share_of_cases("it attends, and samples need it"),
        reading="by construction; what attention writes matters to samples, what int8 does to its weights hardly does",
    ),
    Claim(
        "A65",
        statement="keep Q/K/V, output layer, skip-adjacent in FP16",
        definition="share of (q, k and v; the last convolution; convolutions that read a skip) × (int8 with one scale, "
        "int4 blocks) × three trainings in which keeping that part in bfloat16 gives back a larger share of the damage "
        "(squared median distance of samples) than it holds of the weights",
        number=worth_keeping,
        rule=share_of_cases("a weight kept there gives back more than the average weight"),
        reading="the last convolution is worth it, 288 weights that make half of the damage; q, k, v and what stands "
        "beside skips are not",
    ),
)
