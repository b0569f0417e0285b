"""How much error of Q, K, V or of the logits does attention bear?

Method. Normal queries, keys and values, softmax(Q Kᵀ / √64) V over 256 keys, with logits of a standard deviation (the
logit scale) of 1/4, where attention is flat, to 16, where it picks one key. Noise is added to the logits; Q and K, V,
or the logits are quantized, without outliers, with one channel of Q × 30 (and of K ÷ 30, which changes no logit), and
with one key ten times as long; all logits are shifted; and Q errs only in its length, or only in its direction.
Theory. For small noise KL, total variation and the errors of outputs follow from the attention itself
(``theory.softmax_kl``, ``softmax_tv``, ``softmax_mse``), flips of the largest logit for any (``softmax_flips``).
Relative errors r of Q and of K are logit noise of √2 r logit scales.
Expected. A common shift does nothing to softmax, but much to whatever stores the logits. Noise of one size hurts flat
attention most in KL; relative errors hurt more the larger the logits are. int8 alone moves less than a hundredth of the
attention; with an outlier channel in a shared scale it moves a tenth. A wrong length of Q never flips, and counts less
than a wrong direction only where attention is peaked.
Instead int8 with one scale a head moves two hundredths of peaked attention; and logits stored in e4m3, whose errors
grow with the logit, move twice what white noise of their size would, more than Q and K in e4m3 do together.
Refuted if int8 without outliers moves a tenth of the attention anywhere: panel d.

Settles A21, A50, A68 and B52 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from math import sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, exclude_each_other, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import Estimate
from quantsim.outputs.attention import (
    AttentionQuantizers,
    attention_error,
    attention_sums,
    logits_and_errors,
    summarize_attention,
)
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

WIDTH = 64  # of a head, that of most language models
KEYS = 256
PER_HEAD, PER_TOKEN, PER_QUERY = "int8:channel", f"int8:block{WIDTH}", f"int8:block{KEYS}"  # of arrays (heads, ., .)
OUTLIER_CHANNEL, LONG_KEY = 30.0, 10.0  # times the others: outliers of Q and K as the documents describe them
NOISES = (0.01, 0.1, 1.0)  # rms of the noise on logits, nats
OF_ONE_SIZE = 0.03  # relative error of Q in length or direction, or of V
SHIFTS = (0.0, 1.0, 10.0, 100.0, 1000.0)  # added to all logits, nats
SHIFTED = 100.0  # nats, the shift that A21 is judged at
NOTHING, DRASTIC = 1e-3, 0.1  # shares of the attention that go elsewhere
TWICE = 2.0  # one bit: what counts as needing more precision
FIRST_ORDER = 0.5  # nats of noise beyond which no prediction to first order is drawn


@dataclass(frozen=True)
class Site:
    """What is quantized, and how; ``counted`` where it is int8 that changes logits, which the documents speak of."""

    name: str
    quantizers: AttentionQuantizers
    counted: bool = True


SITES = (
    Site("Q, K int8 per token", AttentionQuantizers(queries=PER_TOKEN, keys=PER_TOKEN)),
    Site("Q, K int8 per head", AttentionQuantizers(queries=PER_HEAD, keys=PER_HEAD)),
    Site("Q, K q8_0", AttentionQuantizers(queries="q8_0", keys="q8_0")),
    Site("logits int8", AttentionQuantizers(logits=PER_QUERY)),
    Site("Q, K e4m3 per head", AttentionQuantizers(queries="e4m3:channel", keys="e4m3:channel"), counted=False),
    Site("logits e4m3", AttentionQuantizers(logits=f"e4m3:block{KEYS}"), counted=False),
    Site("V int8 per token", AttentionQuantizers(values=PER_TOKEN), counted=False),
    Site("V e4m3 per head", AttentionQuantizers(values="e4m3:channel"), counted=False),
)
PROBLEMS = ("no outliers", "outlier channel", "long key")
LENGTH, DIRECTION, VALUES = "length of Q", "direction of Q", "V"
STORED = {"f32": "float32", "bf16": "bf16", PER_QUERY: "int8", f"{PER_QUERY}:minmax": "int8, zero point"}


@dataclass(frozen=True)
class Config:
    """Logit scales (standard deviations of the logits, nats), and how much is drawn at each."""

    logit_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    heads: int = 8
    queries: int = 64
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer heads, queries and logit scales."""
        return cls(logit_scales=(0.25, 2.0, 16.0), heads=4, queries=16)


class Problem(NamedTuple):
    """Queries, keys and values of some heads."""

    queries: Float[Array, "heads queries width"]
    keys: Float[Array, "heads keys width"]
    values: Float[Array, "heads keys width"]

    def logits(self) -> Float[Array, "heads queries keys"]:
        """Q Kᵀ / √width, in nats."""
        return logits_and_errors(self.queries, self.queries, self.keys, self.keys)[0]


def normal(config: Config, name: str, tokens: int) -> Float[Array, "heads tokens width"]:
    """White normal tokens of unit variance, a function of seed and name."""
    return Normal().sample(population_key(config.seed, name), (config.heads, tokens, WIDTH))


@lru_cache(1)
def drawn(config: Config) -> Problem:
    """Queries, keys and values of unit variance."""
    return Problem(normal(config, "queries", config.queries), normal(config, "keys", KEYS), normal(config, "v", KEYS))


def problem(config: Config, name: str, scale: float) -> Problem:
    """The same tokens, with outliers where the name says so, and queries that give logits of this scale."""
    queries, keys, values = drawn(config)
    queries = queries * scale
    if name == "outlier channel":
        queries, keys = queries.at[..., 0].multiply(OUTLIER_CHANNEL), keys.at[..., 0].divide(OUTLIER_CHANNEL)
    if name == "long key":
        keys = keys.at[:, 0].multiply(LONG_KEY)
    return Problem(queries, keys, values)


def measure(config: Config) -> Iterator[Cell]:
    """One cell for the noise, for each set of outliers, for the shift, and for length and direction."""
    yield "noise on logits", partial(noise, config)
    for name in PROBLEMS:
        yield f"quantized, {name}", partial(quantized, config, name)
    yield "common shift", partial(shifted, config)
    yield "length and direction", partial(length_and_direction, config)


def noise(config: Config) -> list[dict[str, Any]]:
    """Normal noise of each size on the logits of each scale."""
    unit = Normal().sample(population_key(config.seed, "noise"), (config.heads, config.queries, KEYS))
    rows = []
    for scale in config.logit_scales:
        p = problem(config, "no outliers", scale)
        logits = p.logits()
        for rms in NOISES:
            found = changes(p, rms * unit)
            rows.append({"kind": "noise", "logit_scale": scale, "noise": rms} | found | predicted(logits, rms))
    return rows


def changes(p: Problem, errors: Array, value_errors: Array | None = None) -> dict[str, float]:
    """Columns of ``AttentionError`` for these errors of logits (nats) and of values."""
    of_values = jnp.zeros_like(p.values) if value_errors is None else value_errors
    return asdict(summarize_attention(attention_sums(p.logits(), errors, p.values, of_values)))


def predicted(logits: Array, rms: float, of_values: float = 0.0) -> dict[str, float]:
    """What white noise of this rms (nats) on the logits, and relative errors of the values, do; means over queries."""
    z = np.asarray(logits, np.float64)
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    by_logits = theory.softmax_mse(z, rms).sum() / (p * p).sum()
    return {
        "predicted_kl": float(np.mean(theory.softmax_kl(z, rms))),
        "predicted_tv": float(np.mean(theory.softmax_tv(z, rms))),
        "predicted_flips": float(np.mean(theory.softmax_flips(z, rms))),
        "predicted_rel_rms": sqrt(by_logits + of_values**2),
    }


def quantized(config: Config, name: str) -> list[dict[str, Any]]:
    """Every site at every logit scale, on the same tokens."""
    rows = []
    for scale in config.logit_scales:
        p = problem(config, name, scale)
        for site in SITES:
            about = {"kind": "site", "problem": name, "site": site.name, "counted": site.counted, "logit_scale": scale}
            found = asdict(attention_error(*p, site.quantizers))
            rows.append(about | found | (predicted_at(site, p, scale) if name == PROBLEMS[0] else {}))
    return rows


def predicted_at(site: Site, p: Problem, scale: float) -> dict[str, float]:
    """Predictions from populations and formats alone: relative errors of normal tokens, or of normal logits."""
    given, logits = site.quantizers, p.logits()
    of_factors = np.hypot(relative(given.queries, p.queries.shape), relative(given.keys, p.keys.shape))
    of_logits = np.hypot(of_factors, relative(given.logits, logits.shape))
    return predicted(logits, scale * float(of_logits), relative(given.values, p.values.shape))


def relative(spec: Any, shape: tuple[int, ...]) -> float:
    """Relative rms error of normal numbers of this shape under a quantizer, 0 without one."""
    return 0.0 if spec is None else float(theory.weight_rel_mse(Normal(), parse(spec), shape)) ** 0.5


def shifted(config: Config) -> list[dict[str, Any]]:
    """Logits of unit scale and a constant, stored in each way; the true attention is that without the constant."""
    p, rows = problem(config, PROBLEMS[0], 1.0), []
    logits = p.logits()
    for spec in STORED:
        for shift in SHIFTS:
            stored = logits + shift
            stored = stored if spec == "f32" else parse(spec).roundtrip(stored)
            found = changes(p, error(logits, stored - shift))
            rms = predicted_rounding(spec, np.asarray(stored, np.float64), shift)
            about = {"kind": "shift", "stored": spec, "shift": shift, "logit_scale": 1.0}
            rows.append(about | found | (predicted(logits, rms) if rms < FIRST_ORDER else {}))
    return rows


def predicted_rounding(spec: str, stored: NDArray[np.float64], shift: float) -> float:
    """Rms error in nats of logits in steps of a float's last place, or of the range over 127 (or 255)."""
    if spec == "f32" and shift == 0:
        return 0.0  # they are stored as they are
    if spec in ("f32", "bf16"):
        digits = {"f32": 23, "bf16": 7}[spec]
        return sqrt(np.mean(4.0 ** (np.floor(np.log2(np.maximum(abs(stored), 1e-9))) - digits) / 12))
    crest = theory.expected_absmax(Normal(), KEYS)
    low, high = min(shift - crest, 0.0), shift + crest
    step = (high - low) / 255 if spec.endswith("minmax") else high / 127
    return step / sqrt(12)


def length_and_direction(config: Config) -> list[dict[str, Any]]:
    """Errors of one relative size: of Q along itself, of Q at right angles to itself, of V in any direction."""
    of_queries = normal(config, "direction", config.queries)
    of_values = normal(config, "direction of values", KEYS)
    rows = []
    for scale in config.logit_scales:
        p = problem(config, PROBLEMS[0], scale)
        turned, moved = right_angled(p.queries, of_queries), of_values * OF_ONE_SIZE
        errs = {
            LENGTH: changes(p, OF_ONE_SIZE * p.logits()),
            DIRECTION: changes(p, logits_and_errors(p.queries, p.queries + turned, p.keys, p.keys)[1]),
            VALUES: changes(p, jnp.zeros_like(p.logits()), moved),
        }
        predictions = {
            LENGTH: predicted_length(p.logits()),
            DIRECTION: predicted(p.logits(), OF_ONE_SIZE * scale),
            VALUES: {"predicted_rel_rms": OF_ONE_SIZE, "predicted_flips": 0.0},
        }
        about = {"kind": "direction", "logit_scale": scale}
        rows += [about | {"error_of": name} | found | predictions[name] for name, found in errs.items()]
    return rows


@jax.jit
def right_angled(queries: Float[Array, "h q w"], directions: Float[Array, "h q w"]) -> Float[Array, "h q w"]:
    """Errors at right angles to each query, ``OF_ONE_SIZE`` of its length."""
    length2 = jnp.sum(queries**2, axis=-1, keepdims=True)
    across = directions - queries * (jnp.sum(queries * directions, axis=-1, keepdims=True) / length2)
    return across * (OF_ONE_SIZE * jnp.sqrt(length2 / jnp.sum(across**2, axis=-1, keepdims=True)))


def predicted_length(logits: Array) -> dict[str, float]:
    """A gain g of the logits z moves p by g p (z - E_p z), to first order; it flips none."""
    z = np.asarray(logits, np.float64)
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    off = z - (p * z).sum(axis=-1, keepdims=True)
    moved = ((p * off) ** 2).sum() / (p * p).sum()
    return {"predicted_rel_rms": OF_ONE_SIZE * sqrt(moved), "predicted_flips": 0.0}


# --- the figure -----------------------------------------------------------------------------------------------------

OF_NOISE = {
    rms: Style(color, marker, f"{rms:g}") for rms, color, marker in zip(NOISES, plotting.COLORS, "os^", strict=False)
}
OF_SITE = plotting.styles(site.name for site in SITES)
OF_STORED = plotting.styles(STORED)
OF_ERROR = plotting.styles((LENGTH, DIRECTION, VALUES))
MOVED = "total variation of attention"
OFF = "output error, relative rms"


def draw(rows: Rows) -> plotting.Figure:
    """First row noise, second row quantization, third row what it does to outputs, a shift, length and direction."""
    fig, axes = plotting.figure(3, 3, height=7.0)
    noise_on_logits(axes[0], rows.where(kind="noise"))
    for ax, name in zip(axes[1], PROBLEMS, strict=True):
        moved_attention(ax, rows.where(kind="site", problem=name), name)
    over_logit_scale(axes[2, 0], rows.where(kind="site", problem=PROBLEMS[0]), "rel_rms", "site", OF_SITE)
    axes[2, 0].set(ylabel=OFF)
    common_shift(axes[2, 1], rows.where(kind="shift"))
    of_one_size(axes[2, 2], rows.where(kind="direction"))
    fig.legend(*axes[2, 0].get_legend_handles_labels(), loc="outside lower center", ncol=4, title="panels d to g")
    plotting.letter(axes.ravel())
    return fig


def over_logit_scale(
    ax: plotting.Axes, rows: Rows, column: str, by: str, styles: dict[Any, Style], **limits: Any
) -> None:
    """A column against the logit scale, a series for each name in column ``by``, over what theory predicts."""
    plotting.family(ax, rows, "logit_scale", column, by=by, styles=styles)
    ax.set(xscale="log", yscale="log", xlabel="logit scale (nats, std)", **limits)


def noise_on_logits(axes: Any, rows: Rows) -> None:
    """KL, total variation and flips under noise of each size."""
    for ax, column in zip(axes, ("kl", "tv", "flips"), strict=True):
        over_logit_scale(ax, rows, column, "noise", OF_NOISE)
    axes[0].set(ylabel="KL divergence (nats)", ylim=(2e-7, 2))
    axes[1].set(ylabel=MOVED)
    axes[2].set(ylabel="queries with another top key", ylim=(5e-4, 1.5))
    axes[0].legend(title="noise, rms (nats)", loc="lower left", ncol=3, columnspacing=0.8)


def moved_attention(ax: plotting.Axes, rows: Rows, name: str) -> None:
    """Total variation of the sites that change logits; above the line a tenth of the attention goes elsewhere."""
    over_logit_scale(ax, rows, "tv", "site", OF_SITE, ylabel=MOVED, ylim=(1e-4, 1.5))
    ax.axhline(DRASTIC, color="0.4", lw=0.9, ls=":")
    plotting.note(ax, 0.25, DRASTIC * 1.15, "drastic (A50)" if name == PROBLEMS[0] else "")
    plotting.note(ax, 0.98, 0.04, name, transform=ax.transAxes, ha="right")


def common_shift(ax: plotting.Axes, rows: Rows) -> None:
    """Attention of unit logits that were stored with a constant added."""
    plotting.family(ax, rows, "shift", "tv", by="stored", styles=OF_STORED)
    ax.set_xscale("symlog", linthresh=1.0)
    ax.set(yscale="log", xlabel="added to logits of std 1 (nats)", ylabel=MOVED, ylim=(1e-8, 1e4))
    plotting.mark_claim(ax, SHIFTED, NOTHING, "A21")
    ax.legend(ncol=2, loc="upper left", columnspacing=0.8)


def of_one_size(ax: plotting.Axes, rows: Rows) -> None:
    """Output errors of length and direction of Q, and of V, all 3 % of what they are errors of."""
    over_logit_scale(ax, rows, "rel_rms", "error_of", OF_ERROR, ylabel=OFF, ylim=(8e-4, 0.3))
    plotting.note(ax, 0.05, 0.92, f"errors of {OF_ONE_SIZE:.0%} (B52)", transform=ax.transAxes)
    ax.legend(loc="lower left")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def damped(rows: Rows) -> float:
    """Share of logit scales at which a shift by 100 does nothing and a relative logit error does not grow."""
    shifted_tv = rows.where(kind="shift", stored="f32", shift=SHIFTED).one("tv")
    found = rows.where(kind="noise", noise=min(NOISES))
    return share(
        shifted_tv <= NOTHING
        and not Estimate(r["rel_rms"], r["rel_rms_se"]).clearly_above(r["noise"] / r["logit_scale"])
        for r in found
    )


def drastic(rows: Rows) -> float:
    """Share of problems × logit scales × places of int8 in which a tenth of the attention goes elsewhere."""
    return share(r["tv"] >= DRASTIC for r in rows.where(kind="site", counted=True))


def direction_counts(rows: Rows) -> float:
    """Share of logit scales × (length of Q, V) over which an error of Q's direction is at least twice as bad."""
    found = []
    for _, cell in rows.where(kind="direction").groups("logit_scale").items():
        errors = cell.by("error_of", "rel_rms")
        found += [errors[DIRECTION] >= TWICE * errors[other] for other in (LENGTH, VALUES)]
    return share(found)


# Each number is a share of cases: a statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A21",
        statement="softmax is robust: insensitive to absolute values, cares about relative",
        definition="share of logit scales (1/4 to 16 nats) at which adding 100 to all float32 logits moves at most a "
        "thousandth of the attention, and the relative rms error of the outputs is at most that of the logits",
        number=damped,
        rule=share_of_cases("both are so, up to three standard errors"),
        reading="a common shift does nothing if logits are float32 (in bf16 or int8 it moves 5 to 10 % of the "
        "attention); relative errors of logits are damped only while logits are smaller than about 1, and grow beyond",
    ),
    Claim(
        "A50",
        statement="softmax is *extremely* sensitive: tiny int8 errors drastically change attention",
        definition="share of (no outliers, outlier channel, long key) × logit scales × (Q, K per token, per head, "
        "q8_0; logits) in int8 in which the total variation is at least a tenth",
        number=drastic,
        rule=share_of_cases("a tenth of the attention goes elsewhere"),
        reading="never without outliers (two hundredths at most); only where an outlier channel shares one scale with "
        "all others and logits are larger than about 2",
    ),
    Claim(
        "B52",
        statement="because Q/K need high-precision direction vectors",
        definition=f"share of logit scales × (length of Q, V) in which an error of {OF_ONE_SIZE:.0%} in the "
        "direction of Q gives at least twice the output error of as large an error in the length of Q, or in V",
        number=direction_counts,
        rule=share_of_cases("it does, so that Q needs a bit more"),
        reading="only where logits of a standard deviation of 4 or more pick a single key; up to 2 a wrong length of Q "
        "is as bad or worse, and up to 1 an error of V is",
    ),
    Claim(
        "A68",
        statement='A21 ("softmax robust") vs A50 ("softmax extremely sensitive")',
        definition="share of the cases of A50 in which a tenth of the attention goes elsewhere",
        number=drastic,
        rule=exclude_each_other("softmax is said to be insensitive, and to be changed drastically by tiny errors"),
        reading="which is true depends on logits and outliers (the second in {value:.2f} of these cases)",
    ),
)
