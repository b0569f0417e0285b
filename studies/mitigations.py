"""Which remedy against quantization error pays where, at equal bits?

Method. Layers of eight kinds, each with one difficulty, are quantized in 4 bits by blocks of 32 (inputs left alone) and
in 8 bits by channel (inputs in 8 bits by token). Every remedy of the registry is calibrated on tokens of its own and
judged by the outputs of fresh ones. What it stores is charged: each bit a weight costs 6.02 dB of error, as one bit
more would halve it. Beside it: GPTQ's order of columns on correlated inputs, against the conditional variances that it
must leave (``theory.compensated_output_mse``), and how its gain and that of training depend on the number of tokens.
A layer has 256 inputs and outputs; what is stored for each of them costs a sixteenth of it in one of 4096.
Expected. Outliers of weights: kept apart. Outlier channels of inputs: their columns kept apart, or moved to the
weights. Correlated inputs: GPTQ, 1 / (1 - rho²). Heavy tails: outliers apart; constant rows: a rotation only if it is
regular. On clean layers nothing gains a bit. The order by size of the inputs helps only where sizes differ.
Instead heavy tails are won by the Hadamard rotation, which costs nothing, where outliers apart cost their indices; in
4 bits by blocks the Sylvester rotation gains on constant rows, as all that is constant ends in one block; and on
correlated inputs of one size the order by size is worse than none, as theory has it: no order beats the natural one.
On clean layers GPTQ loses on fresh tokens what it seems to gain on its own: 0.6 dB of four tokens an input, 4 of one.
Refuted if one remedy wins everywhere, or none is better than rounding alone by a bit anywhere: panels a and b.

Settles B79 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.mitigations import FUNCTIONS
from quantsim.mitigations.hessian import hessian
from quantsim.populations import parse_activations
from quantsim.rows import Rows

from ._layers import NOTHING, Drawn, Problem, Setting, Size, applied, best, drawn, judged, judged_by, kind_of, outcomes

DB_A_BIT = 20 * np.log10(2)  # one bit more halves the error of rounding

TRAINED = "straight_through(steps=50)"

#: Other than default options where those do not fit a layer of 256 × 256, and further variants of one remedy.
OPTIONS = {
    "low_rank": ("low_rank(rank=1)", "low_rank(rank=1,of=residual)"),
    "rotation": ("rotation", "rotation(kind=regular)", "rotation(signs=random)"),
    "gptq": ("gptq", "gptq(ordering=activation,scales=static)"),
    "clip": ("clip", "clip(by=outputs)"),
    "llm_int8": ("llm_int8", "llm_int8(weights=dequantized)"),
    "straight_through": (TRAINED,),
}
#: Every mitigation there is.
REMEDIES = tuple(spec for name in FUNCTIONS for spec in OPTIONS.get(name, (name,)))
NAMES = {
    "smoothquant": "SmoothQuant",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "gptq(ordering=activation,scales=static)": "GPTQ, ordered",
    "llm_int8": "LLM.int8()",
    "llm_int8(weights=dequantized)": "LLM.int8(), deq.",
    "split_outliers": "outliers apart (3σ)",
    "cluster_outliers": "two clusters",
    "clip": "clip by weights",
    "clip(by=outputs)": "clip by outputs",
    "rotation": "Hadamard",
    "rotation(kind=regular)": "Hadamard, regular",
    "rotation(signs=random)": "Hadamard, signs",
    "low_rank(rank=1)": "rank 1 beside",
    "low_rank(rank=1,of=residual)": "rank 1 of error",
    "bias_correction": "bias correction",
    "stochastic_rounding": "stochastic rounding",
    TRAINED: "trained (QAT)",
}
#: What the documents name, beside scales per channel, which all layers in 8 bits have here.
NAMED = ("smoothquant", "awq", "llm_int8", "split_outliers", "cluster_outliers")


W4A16, W8A8 = "W4A16", "W8A8"
SETTINGS = {
    W4A16: Setting("int4:block32:absmax:f16", None, tuple(f"int{b}:block32:absmax:f16" for b in (3, 5, 6))),
    W8A8: Setting("int8:channel", "int8:channel", ("int6:channel", "int7:channel", "int9:channel")),
}


OUTLIERS = "normal+outliers(rate={rate},magnitude=30,layout={layout},values=spread)"
PROBLEMS = {
    "clean": Problem(),
    "elements": Problem(OUTLIERS.format(rate=0.001, layout="element")),
    "columns": Problem(OUTLIERS.format(rate=0.01, layout="column")),
    "rows": Problem(OUTLIERS.format(rate=0.01, layout="row")),
    "channels": Problem(inputs="normal+channels(magnitude=30,rate=0.01)"),
    "tails": Problem("t5", "t5"),
    "constant": Problem(constant=True),
    "correlated": Problem(inputs="ar(rho=0.9)"),
}
ORDERS = {"as they are": "gptq", "by size": "gptq(ordering=activation,scales=static)"}
SIZES = {"equal": "ar(rho={rho})", "unequal": "ar(rho={rho})+channels(magnitude=10,rate=0.1)"}


@dataclass(frozen=True)
class Config:
    """Settings and problems; sizes of the layers, tokens to calibrate on and to judge by; axes of panels d and e."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    problems: tuple[str, ...] = tuple(PROBLEMS)
    side: int = 256  # inputs and outputs
    tokens: int = 1024  # four times the fan-in
    fresh_tokens: int = 1024
    repeats: int = 4  # layers of each kind
    rhos: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    tokens_of_fan_in: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    seed: int = 0

    @property
    def size(self) -> Size:
        """How much is drawn, but for tokens to calibrate on."""
        return Size(self.side, self.fresh_tokens, self.repeats, self.seed)

    @classmethod
    def small(cls) -> "Config":
        """One setting and problem, fewer and smaller layers."""
        few = {"settings": (W4A16,), "problems": ("elements",), "rhos": (0.9,), "tokens_of_fan_in": (2.0,)}
        return cls(side=64, tokens=128, fresh_tokens=128, repeats=2, **few)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each kind of layer and setting, for each correlation, and for each number of tokens."""
    for setting in config.settings:
        for problem in config.problems:
            yield f"{setting}, {problem}", partial(every_remedy, config, setting, problem)
    for rho in config.rhos:
        yield f"order, {rho:g}", partial(orders, config, rho)
    for times in config.tokens_of_fan_in:
        yield f"tokens, {times:g}", partial(tokens, config, times)


def every_remedy(config: Config, setting: str, problem: str) -> list[dict[str, Any]]:
    """Every remedy on the same layers, the best of them, and rounding alone with other numbers of bits."""
    of, layers = SETTINGS[setting], drawn(config.size, problem, PROBLEMS[problem], config.tokens)
    about = {"setting": setting, "problem": problem}
    plain = outcomes(NOTHING, of, layers)
    found = {NOTHING: plain} | {spec: outcomes(spec, of, layers) for spec in REMEDIES}
    rows = [about | {"kind": "remedy", "remedy": spec} | judged(plain, one) for spec, one in found.items()]
    for spec in of.other_bits:
        other = outcomes(NOTHING, of._replace(weights=spec), layers)
        rows.append(about | {"kind": "bits", "remedy": NOTHING} | judged(plain, other))
    return [*rows, about | {"kind": "best"} | best(plain, found)]


def orders(config: Config, rho: float) -> list[dict[str, Any]]:
    """GPTQ with the columns as they are and by size, on inputs of one size and of two, in 4 bits by channel."""
    setting, rows = Setting("int4:channel", None, ()), []
    for sizes, spec in SIZES.items():
        inputs = spec.format(rho=rho)
        layers = drawn(config.size, inputs, Problem(inputs=inputs), config.tokens)
        plain = outcomes(NOTHING, setting, layers)
        for order, remedy in ORDERS.items():
            about = {"kind": "order", "rho": rho, "sizes": sizes, "order": order, "case": f"{sizes}, {order}"}
            about["predicted_gain_db"] = predicted_gain(inputs, layers, order)
            rows.append(about | judged(plain, outcomes(remedy, setting, layers)))
    return rows


def predicted_gain(inputs: str, layers: list[Drawn], order: str) -> float:
    """Power of the errors that rounding alone leaves over that which compensation leaves, in dB, mean over layers."""
    side = layers[0].layer.weights.shape[1]
    s = parse_activations(inputs).second_moment(side)
    left = []
    for one in layers:
        at = np.argsort(-np.diag(hessian(np.asarray(one.layer.inputs))), kind="stable")
        left.append(theory.compensated_output_mse(s, 1.0, order=at if order == "by size" else None, damping=0.01))
    _, fresh = theory.fitted_on_tokens(side, len(layers[0].layer.inputs))
    return float(10 * np.log10(np.trace(s) / (np.mean(left) * fresh)))


TOKEN_REMEDIES = ("gptq", TRAINED)
TOKEN_PROBLEMS = ("clean", "correlated")


def tokens(config: Config, times: float) -> list[dict[str, Any]]:
    """GPTQ and training on this many tokens a fan-in: the gain on these tokens, and on fresh ones, in W4A16."""
    of, rows = SETTINGS[W4A16], []
    for problem in TOKEN_PROBLEMS:
        layers = drawn(config.size, f"tokens {problem}", PROBLEMS[problem], round(times * config.side))
        after = {s: [applied(s, one.layer, of.weights, one.key) for one in layers] for s in (NOTHING, *TOKEN_REMEDIES)}
        for shown in (True, False):
            found = {spec: judged_by(of, layers, mitigated, shown=shown) for spec, mitigated in after.items()}
            for remedy in TOKEN_REMEDIES:
                about = {"kind": "tokens", "problem": problem, "remedy": remedy, "tokens_of_fan_in": times}
                about |= {"shown": shown, "fan_in": config.side}
                rows.append(about | judged(found[NOTHING], found[remedy]))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

SHOWN = ("elements", W4A16)  # in panel c
TICKS = {"channels": "input channels", "elements": "weights", "columns": "columns", "rows": "rows"}
CASES = plotting.styles(f"{sizes}, {order}" for sizes in SIZES for order in ORDERS)
TOKEN_STYLES = {
    ("gptq", "correlated"): Style(plotting.BLUE, "o", "GPTQ, correlated"),
    (TRAINED, "correlated"): Style(plotting.VERMILION, "s", "trained, correlated"),
    ("gptq", "clean"): Style(plotting.GREEN, "^", "GPTQ, white"),
    (TRAINED, "clean"): Style(plotting.PURPLE, "D", "trained, white"),
}


def draw(rows: Rows) -> plotting.Figure:
    """Gain at equal bits of every remedy on every problem; what it costs; GPTQ's order; calibration tokens."""
    figure, panels = plotting.mosaic("ab;cd;ee", height=8.0, height_ratios=[1.7, 1, 0.8])
    for letter, setting in zip("ab", SETTINGS, strict=True):
        if found := rows.where(setting=setting, kind="remedy"):
            gains(panels[letter], found, rows.where(setting=setting, kind="best"))
    panels["b"].tick_params(labelleft=False, labelright=True, left=False)
    errors_against_bits(panels["c"], rows.where(problem=SHOWN[0], setting=SHOWN[1]))
    against_correlation(panels["d"], rows.where(kind="order"))
    against_tokens(panels["e"], rows.where(kind="tokens"))
    plotting.letter(panels[name] for name in "abcde")
    return figure


def gains(ax: plotting.Axes, rows: Rows, best_ones: Rows) -> None:
    """A cell for each remedy and problem: the gain in dB at equal bits; the best of each problem is framed."""
    found = Rows(
        r | {"color": float(np.clip(r["equal_bits_gain_db"], -8, 20)), "text": f"{round(r['equal_bits_gain_db'])}"}
        for r in rows
        if r["remedy"] != NOTHING
    )
    grid = found.grid(x="problem", y="remedy", value="color")
    texts = found.grid(x="problem", y="remedy", value="text")
    plotting.heat_map(ax, grid, texts=texts, cmap="RdBu", white_above=13, vmin=-20, vmax=20, origin="upper")
    for r in best_ones:
        if r["remedy"] in grid.ys:
            at = grid.xs.index(r["problem"]), grid.ys.index(r["remedy"])
            ax.plot(*at, marker="s", ms=10, mfc="none", mec="k", mew=1.4)
    ax.set_xticklabels(
        [TICKS.get(str(name), str(name)) for name in grid.xs], rotation=40, ha="right", rotation_mode="anchor"
    )
    setting = rows[0]["setting"]
    costs = [cost(found.where(remedy=spec)) for spec in grid.ys]
    ax.set_yticklabels([f"{NAMES[s]}  {c}" if setting == W4A16 else c for s, c in zip(grid.ys, costs, strict=True)])
    ax.set_xlabel(f"{setting}: gain (dB) at equal bits")


def cost(rows: Rows) -> str:
    """Stored bits a weight above those of rounding alone, over all problems."""
    extra = rows.column("extra_bits")
    low, high = (f"{v:.2f}".removeprefix("0") for v in (extra.min(), extra.max()))
    return f"+{low}" if low == high else f"+{low} to {high}"


def errors_against_bits(ax: plotting.Axes, rows: Rows) -> None:
    """Remedies of one problem as they are, over rounding alone with more and fewer bits; the efficient ones named."""
    remedies = Rows(r for r in rows.where(kind="remedy") if r["remedy"] != NOTHING)
    alone = Rows(sorted((r for r in rows if r.get("remedy") == NOTHING), key=lambda r: r["bits_per_weight"]))
    bits, error = alone.column("bits_per_weight"), alone.column("error")
    plotting.curve(ax, bits, error, se=alone.column("error_se"), series=Style(plotting.BLACK, "o", NOTHING))
    plotting.points(ax, remedies, "bits_per_weight", "error", series=Style(plotting.BLUE, "s"), ms=3.2)
    for r in efficient(remedies):
        plotting.note(ax, r["bits_per_weight"] + 0.15, r["error"], NAMES[r["remedy"]], va="center")
    ax.set(yscale="log", xlim=(3.2, 8.4), xlabel="stored bits a weight")
    ax.set_ylabel(f"output error / output\n({SHOWN[1]}, {SHOWN[0]})")
    ax.legend(loc="upper right")


def efficient(rows: Rows) -> Rows:
    """Rows of remedies than which no other has both fewer bits and a smaller error; the best of each name."""
    front = [
        r
        for r in rows
        if not any(o["error"] < r["error"] and o["bits_per_weight"] <= r["bits_per_weight"] for o in rows if o is not r)
    ]
    return Rows({kind_of(r["remedy"]): r for r in sorted(front, key=lambda r: -r["error"])}.values())


def against_correlation(ax: plotting.Axes, rows: Rows) -> None:
    """What GPTQ gains on fresh tokens of autoregressive inputs, with the columns in two orders."""
    plotting.family(ax, rows, "rho", "gain_db", by="case", styles=CASES)
    ax.set(xlabel="correlation ρ of inputs", ylabel="gain of GPTQ (dB)", ylim=(-2, 22))
    ax.legend(title="sizes of inputs, order", title_fontsize=6.5, loc="upper left")


def against_tokens(ax: plotting.Axes, rows: Rows) -> None:
    """Gains on fresh tokens (filled) and on those of the calibration (hollow)."""
    for (remedy, problem), style in TOKEN_STYLES.items():
        found = rows.where(remedy=remedy, problem=problem)
        plotting.points(ax, found.where(shown=False), "tokens_of_fan_in", "gain_db", series=style)
        plotting.points(
            ax, found.where(shown=True), "tokens_of_fan_in", "gain_db", series=style, label="_", mfc="none", ms=5
        )
    fan_in = rows[0]["fan_in"]
    times = np.geomspace(1.1, max(rows.column("tokens_of_fan_in")), 40)
    factors = np.array([theory.fitted_on_tokens(fan_in, round(t * fan_in)) for t in times])
    for factor in factors.T:
        plotting.prediction(ax, times, -10 * np.log10(factor), series=TOKEN_STYLES["gptq", "clean"])
    ax.axhline(0, color="0.4", lw=0.6)
    ax.set(xscale="log", xlabel="calibration tokens / fan-in", ylabel="gain (dB)", ylim=(-7, 21))
    ticks = sorted(set(rows.column("tokens_of_fan_in")))
    ax.minorticks_off()
    ax.set(xticks=ticks, xticklabels=[f"{t:g}" for t in ticks])
    ax.legend(title="hollow: on these tokens", title_fontsize=6.5, loc="upper right", ncol=2)


# --- the verdict ----------------------------------------------------------------------------------------------------


def named_that_halve(rows: Rows) -> float:
    """Share of the named remedies that gain a bit at equal bits, clearly, on at least one problem in either setting."""
    found = [r for r in rows.where(kind="remedy") if kind_of(r["remedy"]) in NAMED]

    def gains_a_bit(r: dict[str, Any]) -> bool:
        return r["equal_bits_gain_db"] - 3 * r["equal_bits_gain_db_se"] >= DB_A_BIT

    helpful = {kind_of(r["remedy"]) for r in found if gains_a_bit(r)}
    return share(name in helpful for name in dict.fromkeys(kind_of(r["remedy"]) for r in found))


def summary(rows: Rows) -> str:
    """The best remedy of each problem in each setting, with its margin in dB."""
    parts = [
        f"{r['setting']} {r['problem']}: {NAMES.get(r['remedy'], r['remedy'])} by {r['margin_db']:.1f} dB"
        for r in rows.where(kind="best")
    ]
    return "; ".join(parts)


CLAIMS = (
    Claim(
        "B79",
        statement="named: SmoothQuant, AWQ, LLM.int8, mixed precision, per-channel, clustering",
        definition="share of five of the named remedies (per-channel scales are the base here) that at equal bits "
        "halve the output error of rounding alone, on fresh tokens, on at least one of eight kinds of layers in W4A16 "
        "or W8A8",
        number=named_that_halve,
        rule=share_of_cases("it gains 6.02 dB, clearly, on some kind of layer"),
        reading="each helps against one difficulty and costs bits for nothing against the others",
    ),
)
