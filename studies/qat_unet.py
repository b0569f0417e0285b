"""Is training with quantized weights the most effective remedy for a diffusion UNet, and what of it is more training?

Method. As `qat` for text: three trained UNets are trained on with all matrices quantized in the forward pass and the
gradient of rounding taken as 1 (QAT), at 8, 4 and 3 bits, a scale per channel, for a thirtieth of the steps that they
were trained for and a sixtieth of the images. The control is the same steps on the same batches without a quantizer.
Against QAT stand rounding to nearest and, below 8 bits, GPTQ, of the model as it was and of the control. Judged is the
denoising loss of held-out digits, digit by digit at the same times and noise, and how far images of 20 steps move
from those of the model as it was.
Theory. Rounding raises the loss by S r², S from noise of 10 % in the same weights. No remedy can gain more than that.
Expected. At 8 bits there is nothing to gain. At 3 bits QAT leaves less than rounding and GPTQ of the control; at 4
it does so too, as training goes on where it stopped and a few steps cost a loss nothing, other than in text.
Instead the steps do cost 1 % of the loss, with a quantizer or without, and move images by 8 %: at 8 bits that is 20
times what rounding costs. At 4 bits QAT saves far more than that. Its images lie no nearer to those of the model as it
was than GPTQ's, though: it learns to denoise with other weights, not to be the model that it was.
Refuted if GPTQ of the control costs no more than QAT at 3 bits, or QAT clearly gains at 8: panels a to c.
Published. Fine-tuning of quantized diffusion models leaves less than calibration at 4 bits and fewer (EfficientDM,
arXiv:2310.03270).

Settles A66 of the ledger, which numbers the statements of two documents (``quantsim claims``): it stands among the
remedies for a UNet. What `qat` finds for text is evidence beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, mean
from quantsim.mitigations import Layer, gptq
from quantsim.models import digits, unet_steps, unet_training
from quantsim.models.unet import Images, Params
from quantsim.models.unet_steps import Recipe, State
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows

from . import _language as language
from . import _rows
from . import _unet as unets
from ._qat import BITS, FLOAT, GPTQ, QAT, ROUNDING, STYLES, TRAINED, TUNED, at_places, by_bits, qat_leads
from ._unet import MODELS, Subject

NOISE = 0.1  # relative, at which S is read off
MOST_VECTORS, ROWS = 2048, 64  # that GPTQ is calibrated on, and that matrices are filled up to
BATCHES = 1000  # seed of the batches, which no model was trained with

PerDigit: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Models, quantizers, the training, how many digits it is judged on and calibrated on, and how many images."""

    models: tuple[str, ...] = MODELS
    specs: tuple[str, ...] = tuple(BITS)
    by_gptq: tuple[str, ...] = ("int4:channel", "int3:channel")  # at 8 bits rounding leaves nothing to save
    steps: int = 100
    batch: int = 64
    rate: float = 6e-4  # of 2e-4, 6e-4 and 15e-4 that with which the first model after QAT at 3 bits loses least
    rounds: int = 3  # of times and noise, for each held-out digit
    calibration: int = 32
    samples: int = 32
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, few bits, remedies, steps and digits."""
        few = {"rounds": 1, "calibration": 4, "samples": 4}
        return cls(MODELS[:1], ("int4:channel",), (), steps=3, batch=8, **few)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each model, which all trainings of it share."""
    for model in config.models:
        yield model, partial(one_model, config, model)


def one_model(config: Config, model: str) -> list[dict[str, Any]]:
    """The control, then QAT and every remedy at each number of bits."""
    of = unets.subject(model, config.samples, config.seed)
    control = trained_on(config, of, None)
    loss, tuned = losses(config, of, of.params), losses(config, of, control)
    about = {"model": model, "loss": float(loss.mean())}
    rows = [about | {"kind": "control", "remedy": FLOAT} | columns(increase=mean(tuned - loss)) | moved(of, control)]
    starts = {TRAINED: of.params, TUNED: control}
    inputs = {name: calibration(config, of, params) for name, params in starts.items()}
    noisy = losses(config, of, unets.noisy(of.params, NOISE, config.seed))
    sensitivity = float((noisy - loss).mean()) / NOISE**2
    for spec in config.specs:
        about["spec"] = spec
        own = rounded_to_nearest(trained_on(config, of, spec), spec)
        of_qat = losses(config, of, own)
        gains = columns(increase=mean(of_qat - loss), over_control=mean(of_qat - tuned))
        rows.append(about | {"kind": "qat", "remedy": QAT} | gains | moved(of, own))
        remedies = (ROUNDING, GPTQ) if spec in config.by_gptq else (ROUNDING,)
        for start, remedy in [(start, remedy) for start in starts for remedy in remedies]:
            found = remedied(starts[start], spec, remedy, inputs[start])
            after = losses(config, of, found)
            row = about | {"kind": "remedy", "remedy": remedy, "start": start} | moved(of, found)
            row |= columns(increase=mean(after - loss), over_qat=mean(after - of_qat))
            if (start, remedy) == (TRAINED, ROUNDING):
                row["predicted_increase"] = sensitivity * weight_error(of.params, found) ** 2
            rows.append(row)
    return rows


# --- what is judged -------------------------------------------------------------------------------------------------


def losses(config: Config, of: Subject, params: Params) -> PerDigit:
    """Denoising loss of each held-out digit."""
    return unet_training.image_losses(params, of.config, digits.held_out().images, rounds=config.rounds)


def moved(of: Subject, params: Params) -> dict[str, float]:
    """How far images move."""
    exact = unets.images(of, of.params)
    return unets.moved(exact, unets.images(of, params)).columns()


def weight_error(params: Params, changed: Params) -> float:
    """Relative error of the matrices, rms."""
    return language.rms(unets.relative_errors(params, changed).values())


# --- remedies -------------------------------------------------------------------------------------------------------


def calibration(config: Config, of: Subject, params: Params) -> dict[str, Array]:
    """Inputs of every layer for GPTQ: some of what it sees."""
    if not config.by_gptq:
        return {}
    found = unets.inputs_of(of._replace(params=params), number=config.calibration)
    return {name: drawn(x, config.seed) for name, x in found.items()}


def drawn(x: Array, seed: int) -> Array:
    """So many of the vectors, at random: evenly spaced ones would all be of one column of the pixels."""
    chosen = np.random.default_rng(seed).permutation(len(x))[:MOST_VECTORS]
    return x[np.sort(chosen)]


def remedied(params: Params, spec: str, remedy: str, inputs: dict[str, Array]) -> Params:
    """All matrices in a format, by a remedy."""
    if remedy == ROUNDING:
        return rounded_to_nearest(params, spec)
    return params | {name: by_gptq(w, inputs[name], spec) for name, w in unets.matrices(params).items()}


def by_gptq(w: Array, x: Array, spec: str) -> Array:
    """GPTQ of a matrix, filled up with rows of zeros: they change none of the others, and there are fewer programs."""
    filled = jnp.pad(w, ((0, -len(w) % ROWS), (0, 0)))
    return gptq(Layer(filled, x), spec).weights[: len(w)]


def rounded_to_nearest(params: Params, spec: str) -> Params:
    """All matrices in a format, as they are."""
    return params | _rows.roundtrip(spec, unets.matrices(params))


# --- training -------------------------------------------------------------------------------------------------------


def trained_on(config: Config, of: Subject, spec: str | None) -> Params:
    """Parameters after so many steps more, the matrices quantized in the forward pass, or not."""
    recipe = Recipe(
        seed=BATCHES + config.seed,
        steps=config.steps,
        batch=config.batch,
        rate=config.rate,
        warmup=config.steps // 10,
        config=of.config,
    )
    which = jnp.int32(0 if spec is None else 1 + config.specs.index(spec))
    data = jnp.asarray(digits.training().images)
    state = State(of.params, unet_steps.optimizer(recipe).init(of.params), jnp.int32(0))
    for _ in range(config.steps):
        state = one_step(state, which, data, recipe=recipe, specs=config.specs)
    return state.params


@partial(jax.jit, static_argnames=("recipe", "specs"))
def one_step(state: State, which: Int[Array, ""], data: Images, *, recipe: Recipe, specs: tuple[str, ...]) -> State:
    """A step of AdamW on the loss of the model whose matrices went through quantizer ``which``; one program for all."""
    of_images, of_noise = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), state.step))
    images = data[jax.random.randint(of_images, (recipe.batch,), 0, len(data))]

    def loss(params: Params) -> Float[Array, ""]:
        return jnp.mean(unet_steps.losses(rounded(params, which, specs), images, of_noise, recipe.config))

    gradient = jax.grad(loss)(state.params)
    updates, moments = unet_steps.optimizer(recipe).update(gradient, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return State(params, moments, state.step + 1)


def rounded(params: Params, which: Int[Array, ""], specs: tuple[str, ...]) -> Params:
    """The parameters, all matrices through the quantizer of this number, 0 for none."""
    matrices = unets.matrices(params)
    through: list[Callable[[Array], Array]] = [as_it_is, *(quantizer(spec).roundtrip for spec in specs)]
    return params | _rows.parted(lax.switch(which, through, _rows.stacked(matrices)), matrices)


def as_it_is(w: Array) -> Array:
    """No quantizer."""
    return w


# --- the figure -----------------------------------------------------------------------------------------------------


def draw(rows: Rows) -> plotting.Figure:
    """What each remedy costs, of the model as it was and of the control, how far QAT is ahead, and what images do."""
    fig, axes = plotting.figure(1, 4, height=2.9)
    specs = [spec for spec in BITS if rows.where(spec=spec)]
    for ax, start in zip(axes[0], (TRAINED, TUNED), strict=False):
        costs(ax, rows, specs, start)
    ahead(axes[0, 2], rows.where(kind="remedy"), specs)
    images(axes[0, 3], rows, specs)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    plotting.letter(axes.ravel())
    return fig


def costs(ax: plotting.Axes, rows: Rows, specs: list[str], start: str) -> None:
    """Increase of the loss of each model, bits side by side."""
    by_remedy(ax, rows, specs, start, "increase")
    if start == TRAINED:
        predicted = rows.where(remedy=ROUNDING, start=TRAINED)
        look = Style("0.25", "_", "rounding, predicted")
        at_places(ax, predicted, "predicted_increase", specs, shift=-0.225, series=look)
    for k, value in enumerate(rows.where(kind="control").column("increase")):
        ax.axhline(value, color="0.4", lw=0.6, ls=":", label="_control" if k else "control")
    loss = float(rows.where(kind="control").column("loss").mean())
    ax.axhline(loss, color="0.7", lw=0.6)
    plotting.note(ax, -0.45, loss, "the loss itself", va="bottom", color="0.4")
    plotting.note(ax, 0.97, 0.02, f"the model {start}", transform=ax.transAxes, ha="right")
    ax.set_yscale("symlog", linthresh=1e-4)
    ax.set(ylabel="increase of the loss", ylim=(-1e-4, 0.4))
    by_bits(ax, specs)


def by_remedy(ax: plotting.Axes, rows: Rows, specs: list[str], start: str, column: str) -> None:
    """A column for every remedy from a start, and for QAT."""
    for k, remedy in enumerate((ROUNDING, GPTQ, QAT)):
        found = rows.where(kind="qat") if remedy == QAT else rows.where(kind="remedy", remedy=remedy, start=start)
        at_places(ax, found, column, specs, shift=(k - 1) * 0.225, series=STYLES[remedy])


def ahead(ax: plotting.Axes, rows: Rows, specs: list[str]) -> None:
    """How much larger the loss of a remedy is than that of QAT; open markers for the model as it was."""
    for k, remedy in enumerate((ROUNDING, GPTQ)):
        for start, fill in ((TRAINED, "none"), (TUNED, "full")):
            found, shift = rows.where(remedy=remedy, start=start), (k - 0.5) * 0.3
            at_places(ax, found, "over_qat", specs, shift=shift, series=STYLES[remedy], fillstyle=fill)
    ax.axhline(0, color="0.3", lw=0.8)
    plotting.note(ax, 0.97, 0.02, "open: as it was", transform=ax.transAxes, ha="right")
    ax.set_yscale("symlog", linthresh=1e-4)
    ax.set(ylabel="loss less that with QAT (A66)", ylim=(-0.02, 0.4))
    by_bits(ax, specs)


def images(ax: plotting.Axes, rows: Rows, specs: list[str]) -> None:
    """How far images move from those of the model as it was."""
    by_remedy(ax, rows, specs, TRAINED, "distance")
    for value in rows.where(kind="control").column("distance"):
        ax.axhline(value, color="0.4", lw=0.6, ls=":")
    ax.set(yscale="log", ylabel="images moved, relative (median)")
    by_bits(ax, specs)


CLAIMS = (
    Claim(
        "A66",
        statement="QAT is the most effective",
        definition="share of three trainings of a small UNet × three numbers of bits (8, 4, 3, a scale per channel) "
        "where the denoising loss after QAT is clearly less than with rounding or, below 8 bits, GPTQ, of the model as "
        "it was and of one that was trained on as long without a quantizer",
        number=qat_leads,
        rule=share_of_cases("the loss after QAT is the least by more than three standard errors"),
        reading="at 4 and 3 bits QAT leaves clearly least, a sixth of what rounding costs and a good third of what "
        "GPTQ does, though its images lie no nearer to the trained model's; at 8 bits there is nothing to save, and "
        "the training costs 20 times what rounding does; of text QAT leaves clearly least at 3 bits alone (`qat`)",
    ),
)
