"""Is training with quantized weights the most effective remedy, and what of it is only more training?

Method. Three trained models of bytes (quantsim.models) are trained on with the weights of their layers quantized in the
forward pass and the gradient of rounding taken as 1 (QAT), at 8, 4 and 3 bits, a scale per channel, for a tenth of the
steps that they were trained for and a twentieth of the bytes. The control is the same steps on the same batches without
a quantizer. Against QAT stand rounding to nearest, clipping and GPTQ, of the model as it was and of the control,
at the same bits. Judged is the loss on held-out text, sequence by sequence beside the unquantized model (ΔNLL) and
beside QAT.
Theory. Rounding costs KL = S r² nats: S from noise of 1 % in the same weights, r that of normal weights. No remedy can
gain more than that, and more steps gain or lose whatever they do without a quantizer.
Expected. At 8 bits there is nothing to gain: rounding costs less than what a few steps of training move. At 3 bits
rounding costs most, and QAT, which alone moves all layers towards the loss itself, leaves least.
Refuted if GPTQ of the control costs no more than QAT at 3 bits, or QAT clearly gains at 8: panels a and b.
Published. QAT leaves less than methods after training below 8 bits, most at 4 and fewer (LLM-QAT, arXiv:2305.17888).

Evidence beside what `qat_unet` finds for diffusion models, of which the documents say that nothing is as effective. Of
these nine cases QAT leaves clearly least in three, those of 3 bits; at 4 GPTQ of the model as it was leaves no more,
and at 8 there is nothing to save.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from quantsim.lab import plotting
from quantsim.lab.claims import Claim
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, mean
from quantsim.models import steps, text
from quantsim.models.llama import Params
from quantsim.models.steps import Recipe, State
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.tree import Treatment

from . import _language as language
from ._language import Damage, Subject
from ._qat import STYLES, at_places, by_bits, qat_leads

MODELS = ("lm-w64-s0", "lm-w64-s1", "lm-w64-s2")  # a step of the wider ones costs four times as much
BITS = {"int8:channel": 8, "int4:channel": 4, "int3:channel": 3}
ROUNDING, QAT, FLOAT = "rounding", "QAT", "no quantizer"
REMEDIES = (ROUNDING, "clip", "gptq")
TRAINED, TUNED = "as it was", "after the control"
SMALLEST = 0.01  # relative noise, at which S is read off
BATCHES = 1000  # seed of the batches, which no model was trained with


@dataclass(frozen=True)
class Config:
    """Models, quantizers, remedies, the training, and how much text."""

    models: tuple[str, ...] = MODELS
    specs: tuple[str, ...] = tuple(BITS)
    remedies: tuple[str, ...] = REMEDIES
    steps: int = 150
    batch: int = 4
    rate: float = 3e-4  # of 1e-4 and 3e-4 that with which the first model after QAT at 3 bits loses less
    sequences: int = 128
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, few bits, remedies and steps, little text."""
        return cls(MODELS[:1], ("int4:channel",), (ROUNDING, "clip"), steps=3, batch=2, sequences=4)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each model, which all trainings of it share."""
    for model in config.models:
        yield model, partial(one_model, config, model)


def one_model(config: Config, model: str) -> list[dict[str, Any]]:
    """The control, then QAT and every remedy at each number of bits."""
    of = language.subject(model, config.sequences)
    control = of._replace(params=trained_on(config, of, None))
    about = {"model": model, "loss": language.loss(of).value}
    tuned = language.damage(of, control.params)
    rows = [about | {"kind": "control", "remedy": FLOAT} | tuned.columns()]
    starts = {TRAINED: of, TUNED: control}
    inputs = {name: language.inputs_of(start) for name, start in starts.items()}
    sensitivity = language.layers_noise(of, SMALLEST, [config.seed]).value / SMALLEST**2
    for spec in config.specs:
        about["spec"] = spec
        own = of._replace(params=trained_on(config, of, spec))
        of_qat = language.damage(of, layers_quantized(own, spec, ROUNDING, None).params)
        more = columns(over_control=mean(of_qat.nll - tuned.nll))
        rows.append(about | {"kind": "qat", "remedy": QAT} | of_qat.columns() | more)
        errors = [language.normal_error(spec, w) for w in language.layers(of.params).values()]
        predicted = sensitivity * language.rms(errors) ** 2
        for start, remedy in [(start, remedy) for start in starts for remedy in config.remedies]:
            found = layers_quantized(starts[start], spec, remedy, inputs[start])
            row = about | {"kind": "remedy", "remedy": remedy, "start": start, "bits": found.bits_of(*of_layers(of))}
            row |= against(of_qat, language.damage(of, found.params))
            rows.append(row | ({"predicted_kl": predicted} if (start, remedy) == (TRAINED, ROUNDING) else {}))
    return rows


def of_layers(of: Subject) -> list[str]:
    """Names of the matrices that are quantized."""
    return list(language.layers(of.params))


def layers_quantized(of: Subject, spec: str, remedy: str, inputs: dict[str, Array] | None) -> Any:
    """A model whose layers are quantized."""
    treatment = Treatment(spec, mitigation=None if remedy == ROUNDING else remedy)
    return language.quantized(of, {"blk.*": treatment}, inputs=inputs)


def against(of_qat: Damage, found: Damage) -> dict[str, float]:
    """Damage, and how much larger the loss is than with QAT."""
    return found.columns() | columns(over_qat=mean(found.nll - of_qat.nll))


# --- training -------------------------------------------------------------------------------------------------------


def trained_on(config: Config, of: Subject, spec: str | None) -> Params:
    """Parameters after so many steps more, the layers quantized in the forward pass, or not."""
    recipe = Recipe(
        seed=BATCHES + config.seed,
        steps=config.steps,
        batch=config.batch,
        rate=config.rate,
        warmup=config.steps // 10,
        config=of.config,
    )
    which = jnp.int32(0 if spec is None else 1 + config.specs.index(spec))
    data = jnp.asarray(text.training_bytes())
    state = State(of.params, steps.optimizer(recipe).init(of.params), jnp.int32(0))
    for _ in range(config.steps):
        state = one_step(state, which, data, recipe=recipe, specs=config.specs)
    return state.params


@partial(jax.jit, static_argnames=("recipe", "specs"))
def one_step(
    state: State, which: Int[Array, ""], data: UInt8[Array, " bytes"], *, recipe: Recipe, specs: tuple[str, ...]
) -> State:
    """A step of AdamW on the loss of the model whose layers went through quantizer ``which``; one program for all."""
    tokens = steps.batch(state.step, data, recipe)

    def loss(params: Params) -> Float[Array, ""]:
        return steps.mean_loss(rounded(params, which, specs), tokens, recipe.config)

    gradient = jax.grad(loss)(state.params)
    updates, moments = steps.optimizer(recipe).update(gradient, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return State(params, moments, state.step + 1)


def rounded(params: Params, which: Int[Array, ""], specs: tuple[str, ...]) -> Params:
    """The parameters, the matrices of layers through the quantizer of this number, 0 for none."""
    through: list[Callable[[Array], Array]] = [as_it_is, *(quantizer(spec).roundtrip for spec in specs)]
    return params | {name: lax.switch(which, through, w) for name, w in language.layers(params).items()}


def as_it_is(w: Array) -> Array:
    """No quantizer."""
    return w


# --- the figure -----------------------------------------------------------------------------------------------------


def draw(rows: Rows) -> plotting.Figure:
    """What each remedy costs, of the model as it was and after as many steps, and how much QAT is ahead of it."""
    fig, axes = plotting.figure(1, 3, height=2.9)
    specs = [spec for spec in BITS if rows.where(spec=spec)]
    costs(axes[0, 0], rows, specs, TRAINED)
    costs(axes[0, 1], rows, specs, TUNED)
    ahead(axes[0, 2], rows.where(kind="remedy"), specs)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    plotting.letter(axes.ravel())
    return fig


def costs(ax: plotting.Axes, rows: Rows, specs: list[str], start: str) -> None:
    """Increase of the loss of each model, bits side by side."""
    for k, (remedy, style) in enumerate(STYLES.items()):
        found = rows.where(kind="qat") if remedy == QAT else rows.where(kind="remedy", remedy=remedy, start=start)
        at_places(ax, found, "nll", specs, shift=(k - 1.5) * 0.15, series=style)
    predicted = rows.where(remedy=ROUNDING, start=TRAINED)
    if start == TRAINED:
        at_places(ax, predicted, "predicted_kl", specs, shift=-0.225, series=Style("0.25", "_", "rounding, predicted"))
    for k, value in enumerate(rows.where(kind="control").column("nll")):
        ax.axhline(value, color="0.4", lw=0.6, ls=":", label="_control" if k else "control")
    plotting.note(ax, 0.97, 0.04, f"the model {start}", transform=ax.transAxes, ha="right")
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set(ylabel="increase of the loss (nats per byte)", ylim=(-1e-3, 0.2))
    by_bits(ax, specs)


def ahead(ax: plotting.Axes, rows: Rows, specs: list[str]) -> None:
    """How much larger the loss of a remedy is than that of QAT; open markers for the model as it was."""
    for k, remedy in enumerate(REMEDIES):
        for start, fill in ((TRAINED, "none"), (TUNED, "full")):
            found, shift = rows.where(remedy=remedy, start=start), (k - 1) * 0.15
            at_places(ax, found, "over_qat", specs, shift=shift, series=STYLES[remedy], fillstyle=fill)
    ax.axhline(0, color="0.3", lw=0.8)
    plotting.note(ax, 0.97, 0.04, "open: the model as it was", transform=ax.transAxes, ha="right")
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set(ylabel="loss less that with QAT (A66)", ylim=(-0.06, 0.2))
    by_bits(ax, specs)


# --- what came of it ------------------------------------------------------------------------------------------------


def summary(rows: Rows) -> str:
    """In how many cases QAT leads."""
    cases = len(rows.where(kind="remedy").groups("model", "spec"))
    return f"QAT leaves clearly the least loss in {round(qat_leads(rows) * cases)} of {cases} trainings × bits"


#: What is claimed of QAT is said of diffusion models, and settled by ``qat_unet``.
CLAIMS: tuple[Claim, ...] = ()
