"""Do residual connections keep the errors of quantized layers from growing with depth?

Method. Stacks of random square matrices, each quantized to int8: plain, with a norm behind every matrix, and residual
with a norm before every matrix; with GELU before the matrices and without. Beside rounding every matrix is made too
large by one gain of the same size, or the first one alone gets a white error, which is followed to the end. Branches
F(x) of every direction beside x are spoiled to see when the sum x + F(x) feels it.
Expected. Independent errors grow as sqrt(L) over L layers and a gain as L, in a residual stack as sqrt(log L) and not
at all, as each branch is a smaller part of the stream than the one before. A single error never shrinks: linear layers
turn it with the signal, GELU amplifies it by 3 % a layer, which a residual stack reduces to a small power of L. The
balance of x and F(x) matters only where they cancel: by |F| / |x + F|.
Refuted if a single error falls to less than half behind residual connections: panel b.

Settles A20, A42 and A43 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray
from scipy.special import ndtr

from quantsim import theory
from quantsim._types import Activations, Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, no_statement, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, root_ratio
from quantsim.outputs.depth import (
    Layer,
    StackSums,
    normalized_layer,
    plain_layer,
    residual_layer,
    stack_errors,
)
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys

INT8 = parse("int8:channel")  # one scale, max |w| / 127, for the weights of each output
ROUNDED, GAIN, ONE = "rounded", "gain", "one error"  # every matrix int8; every one too large; the first one off
SIZE_OF_ONE = 0.01  # relative rms error of the first matrix, small enough for a first order
HALF, TWICE = 0.5, 2.0  # of the error: what counts as correcting it, and as being sensitive


def gelu(z: Any) -> Any:
    """``z Phi(z)``, of NumPy arrays; jax.nn.gelu is its counterpart."""
    return z * ndtr(z)


@dataclass(frozen=True)
class Stack:
    """A kind of stack: its layer, and the nonlinearity as mathematics sees it, None if there is none."""

    name: str
    layer: Layer
    nonlinearity: Callable[[Any], Any] | None = None
    branch: float | None = None  # rms of a branch's output over that of the stack's input

    @property
    def sensitivity(self) -> float:
        """By what a relative error grows through the nonlinearity."""
        return theory.sensitivity(self.nonlinearity) if self.nonlinearity else 1.0


GELU = partial(jax.nn.gelu, approximate=False)
PLAIN = Stack("plain", plain_layer)
NORMALIZED = Stack("norm", normalized_layer)
RESIDUAL = Stack("residual", residual_layer, branch=1.0)
NORMALIZED_GELU = Stack("norm, GELU", partial(normalized_layer, activation=GELU), gelu)
RESIDUAL_GELU = Stack("residual, GELU", partial(residual_layer, activation=GELU), gelu, branch=1.0)
STACKS = (PLAIN, NORMALIZED, RESIDUAL, NORMALIZED_GELU, RESIDUAL_GELU)
WITHOUT_BRANCHES = {RESIDUAL: NORMALIZED, RESIDUAL_GELU: NORMALIZED_GELU}  # the same layers, one after the other


@dataclass(frozen=True)
class Config:
    """Sizes of the stacks.

    Attributes:
        width: channels, the sides of a matrix.
        tokens: inputs of a stack.
        layers: after which the errors are read.
        repeats: stacks of each kind, with matrices of their own.
        cosines: between F(x) and x, which are equally long.
    """

    width: int = 256
    tokens: int = 32
    layers: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    repeats: int = 12
    cosines: tuple[float, ...] = (0.9, 0.5, 0.0, -0.5, -0.9, -0.99, -0.999)
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer, narrower and shorter stacks."""
        return cls(width=64, tokens=8, layers=(1, 4, 16), repeats=4)


def measure(config: Config) -> Iterator[Cell]:
    """One cell a kind of stack, one for the balance of a branch and what it is added to."""
    for stack in STACKS:
        yield stack.name, partial(by_layer, config, stack)
    yield "balance", partial(by_cosine, config)


def by_layer(config: Config, stack: Stack) -> list[dict]:
    """Relative rms error of each kind after some of the layers; repeats are the units of the standard errors."""
    shape = (config.width, config.width)
    rho = float(np.sqrt(theory.weight_rel_mse(Normal(), INT8, shape)))
    keys = array_keys(config.seed, stack.name, config.repeats)
    found = sums(stack, (config.tokens, config.width), max(config.layers), keys, jnp.float32(rho))
    rows = []
    for error, squared in found.squared_errors.items():
        predicted = predicted_errors(stack, error, rho, max(config.layers))
        for layer in config.layers:
            rel_rms = root_ratio(squared[:, layer - 1], found.squared_outputs[:, layer - 1])
            about = {"kind": "stack", "stack": stack.name, "error": error, "layer": layer}
            rows.append(about | columns(rel_rms=rel_rms) | {"predicted_rel_rms": predicted[layer - 1]})
    return rows


@partial(jax.jit, static_argnums=(0, 1, 2))
def sums(stack: Stack, shape: tuple[int, int], layers: int, keys: PRNGKey, rho: Float[Array, ""]) -> StackSums:
    """Sums of squares, (repeats, layers), of one stack for each key."""
    width = shape[1]
    size = 1 / np.sqrt(width * power(stack.nonlinearity))  # keeps the power of what a matrix makes at 1

    def one(key: PRNGKey) -> StackSums:
        of_weights, of_errors, of_inputs = jax.random.split(key, 3)

        def weights(number: Int[Array, ""]) -> Matrix:
            return size * jax.random.normal(jax.random.fold_in(of_weights, number), (width, width))

        e = SIZE_OF_ONE * size * jax.random.normal(of_errors, (width, width))

        def spoiled(w: Matrix, number: Int[Array, ""]) -> dict[str, Matrix]:
            return {ROUNDED: INT8.roundtrip(w), GAIN: (1 + rho) * w, ONE: w + jnp.where(number == 0, e, 0.0)}

        inputs = jax.random.normal(of_inputs, shape)
        return stack_errors(stack.layer, weights, spoiled=spoiled, inputs=inputs, layers=layers)

    return jax.lax.map(one, keys)


def power(nonlinearity: Callable[[Any], Any] | None) -> float:
    """E[f(z)^2] of a standard normal z."""
    z = np.linspace(-12, 12, 24_001)
    values = nonlinearity(z) if nonlinearity else z
    return float(np.average(values**2, weights=np.exp(-z * z / 2)))


def predicted_errors(stack: Stack, error: str, rho: float, layers: int) -> NDArray[np.float64]:
    """Relative rms errors after each layer, in closed form; NaN for a gain beside a nonlinearity."""
    if error == GAIN:
        return np.array([predicted_gain(stack, rho, layer) for layer in range(1, layers + 1)])
    injected = np.full(layers, rho) if error == ROUNDED else SIZE_OF_ONE * (np.arange(layers) == 0)
    return theory.followed_errors(injected, sensitivity=stack.sensitivity, branch=stack.branch)


def predicted_gain(stack: Stack, rho: float, layers: int) -> float:
    """Relative error after so many layers that are all too large by rho."""
    if stack is PLAIN:
        return theory.stack_error(rho, layers, gain=True)
    if stack is NORMALIZED:
        return theory.normalized_stack_error(rho, layers, gain=True)
    return theory.residual_stack_error(rho, layers, gain=True) if stack is RESIDUAL else np.nan


class Pair(NamedTuple):
    """What a residual connection adds up: x and F(x), equally long with a cosine between them."""

    x: Activations
    f: Activations


def by_cosine(config: Config) -> list[dict]:
    """By what factor a relative error of F(x) comes out larger in x + F(x); tokens are the units."""
    x, other, noise = np.random.default_rng(config.seed).standard_normal(
        (3, config.repeats * config.tokens, config.width)
    )
    rows = []
    for cosine in config.cosines:
        pair = Pair(x, cosine * x + np.sqrt(1 - cosine**2) * other)
        for error, off in {GAIN: SIZE_OF_ONE * pair.f, ROUNDED: SIZE_OF_ONE * noise}.items():
            of_sum = np.sum(off**2, axis=1) / SIZE_OF_ONE**2
            factor = root_ratio(of_sum, np.sum((pair.x + pair.f) ** 2, axis=1))
            about = {"kind": "balance", "cosine": cosine, "error": error}
            rows.append(about | columns(factor=factor) | {"predicted_factor": 1 / np.sqrt(2 + 2 * cosine)})
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(stack.name for stack in STACKS)


def draw(rows: Rows) -> plotting.Figure:
    """Errors of all layers, one error followed, and the balance of a branch."""
    figure, axes = plotting.figure(1, 3, height=2.7)
    all_layers_off(axes[0, 0], rows.where(kind="stack"))
    one_layer_off(axes[0, 1], rows.where(kind="stack", error=ONE))
    balance(axes[0, 2], rows.where(kind="balance"))
    plotting.letter(axes.ravel())
    return figure


def all_layers_off(ax: Axes, rows: Rows) -> None:
    """Error against depth without nonlinearities: filled if rounded, open if every matrix is too large."""
    for stack in (PLAIN, NORMALIZED, RESIDUAL):
        plotting.measured(
            ax, rows.where(stack=stack.name, error=ROUNDED), "layer", "rel_rms", series=STYLES[stack.name]
        )
    for stack in (PLAIN, RESIDUAL):
        style = Style(STYLES[stack.name].color, STYLES[stack.name].marker, f"{stack.name}, gain")
        found = rows.where(stack=stack.name, error=GAIN)
        plotting.measured(ax, found, "layer", "rel_rms", series=style, markerfacecolor="w")
    ax.set(xscale="log", yscale="log", xlabel="layers L, all off by 0.7 %", ylabel="error / signal, rms")
    ax.legend(loc="upper left")


def one_layer_off(ax: Axes, rows: Rows) -> None:
    """The error of the first matrix, relative to the signal after each layer, over what it was behind the first."""
    for stack in STACKS:
        found = rows.where(stack=stack.name)
        first = found.where(layer=1).one("rel_rms")
        scaled = Rows(
            r | {name: r[name] / first for name in ("rel_rms", "rel_rms_se", "predicted_rel_rms")} for r in found
        )
        plotting.measured(ax, scaled, "layer", "rel_rms", series=STYLES[stack.name])
    ax.axhspan(0.2, HALF, color="0.9", lw=0)
    plotting.note(ax, 1.1, 0.3, "A20: corrected")
    ax.set(xscale="log", yscale="log", ylim=(0.2, 20), xlabel="layer", ylabel="error of layer 1 / when it was made")
    ax.legend(loc="upper left")


def balance(ax: Axes, rows: Rows) -> None:
    """By what factor an error of F(x) is larger in x + F(x)."""
    labels = {GAIN: "F too large", ROUNDED: "F off at random"}
    for error, style in plotting.styles(labels).items():
        look = {"ms": 5, "markerfacecolor": "w"} if error == GAIN else {}
        plotting.points(ax, rows.where(error=error), "cosine", "factor", series=style, **look)
    cosines = np.linspace(-0.9995, 0.95, 400)
    plotting.prediction(ax, cosines, 1 / np.sqrt(2 + 2 * cosines), label="|F| / |x + F|")
    ax.axhline(TWICE, color="0.6", lw=0.8)
    plotting.note(ax, 0.95, TWICE * 1.1, "A42: sensitive above", ha="right")
    ax.set(yscale="log", xlabel="cosine of x and F(x)", ylabel="error of x + F(x) / error of F(x)")
    ax.legend(loc="upper right")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def corrected(rows: Rows) -> float:
    """Share of (linear, GELU) × (one error falls, all errors grow less) in which a residual stack halves the error."""
    found = rows.where(kind="stack")
    last, cases = max(found.column("layer")), []
    for stack, without in WITHOUT_BRANCHES.items():
        one = found.where(stack=stack.name, error=ONE).by("layer", "rel_rms")
        cases.append(one[last] < HALF * one[min(one)])
        rounded = found.where(error=ROUNDED, layer=last).by("stack", "rel_rms")
        cases.append(rounded[stack.name] < HALF * rounded[without.name])
    return share(cases)


def sensitive(rows: Rows) -> float:
    """Share of cosines × kinds of error at which x + F(x) is off by more than twice what F(x) is off by."""
    return share(rows.where(kind="balance").column("factor") > TWICE)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
def no_gradient(rows: Rows) -> float:
    """A gradient at inference has no number."""
    del rows
    return 0.0


CLAIMS = (
    Claim(
        "A20",
        statement='residual connections "correct" errors',
        definition="share of two stacks (linear, GELU) × two parts: one layer's relative error halves on its way to "
        "the last layer; the error of all layers is less than half of that without branches",
        number=corrected,
        rule=share_of_cases("the relative rms error is less than half"),
        reading="no error is taken back, but a branch is a small part of the stream, so all errors together stay small",
    ),
    Claim(
        "A42",
        statement="F(x)+x is sensitive to the exact balance",
        definition="share of cosines between x and F(x) (0.9 to -0.999) × (F too large, F off at random) at which the "
        "relative error of x + F(x) is more than twice that of F(x)",
        number=sensitive,
        rule=share_of_cases("the sum is off by more than twice what the branch is off by"),
        reading="only where the branch nearly cancels what it is added to; else the sum is off by less than the branch",
    ),
    Claim(
        "A43",
        statement='may disturb "gradient flow … even at inference"',
        definition="none",
        number=no_gradient,
        rule=no_statement("nothing flows backwards at inference"),
        reading="what flows are values: A42 says when a sum is sensitive",
    ),
)
