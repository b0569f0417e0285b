"""Do SiLU and GELU amplify the relative errors of small values, and do they respond exponentially?

Method. Standard normal values are quantized to int8 or int4 with one scale, or carry a relative error of 1 %; what
comes out of SiLU, GELU and, to compare, ReLU is sorted by the value that went in.
Theory. A small relative error comes out times |x f'(x) / f(x)|, the slope in logarithms. A response is exponential
where f is multiplied by the same factor for each step of x.
Expected. Near 0 both are x / 2: relative errors of small values come out as they went in, times 1, whatever their size.
They grow by a third around 1 and by |x| in the left tail, where nothing is left of the value. Exponential is only that
tail, which vanishes; above 2 both are the identity.
Refuted if a relative error of values below 0.1 grows by a tenth or more: panel a.

Settles A48 and B59 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float
from scipy.special import expit, ndtr

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, root_ratio
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "SiLU": jax.nn.silu,
    "GELU": partial(jax.nn.gelu, approximate=False),
    "ReLU": jax.nn.relu,
}
SMOOTH = ("SiLU", "GELU")  # of which the statements are made
QUANTIZERS = {"int8": parse("int8:tensor"), "int4": parse("int4:tensor")}  # one scale, max |x| / 127 or / 7
RELATIVE = "1 % of each value"
SIZE = 0.01  # of the relative error
SMALL = 0.1  # standard deviations below which values are small
A_TENTH = 1.1  # times: what counts as amplified
DOUBLES = 2.0  # times for each step of 1 in x: what counts as an exponential response (e^x: 2.7)
LEFT, RIGHT = (-8.0, -4.0), (4.0, 8.0)  # the tails: values in which the functions are far from their bend


@dataclass(frozen=True)
class Config:
    """How many values.

    Attributes:
        values: in each repeat.
        repeats: of the units of the standard errors; each has one scale.
        edges: of the classes of values, in standard deviations.
    """

    values: int = 2**17
    repeats: int = 8
    edges: tuple[float, ...] = (
        -4.0,
        -3.0,
        -2.5,
        -2.0,
        -1.6,
        -1.2,
        -0.8,
        -0.4,
        -0.1,
        0.1,
        0.4,
        0.8,
        1.2,
        1.6,
        2.0,
        3.0,
        4.0,
    )
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer values."""
        return cls(values=2**13, repeats=4)


def measure(config: Config) -> Iterator[Cell]:
    """One cell for the errors, one for the responses."""
    yield "errors", partial(by_value, config)
    yield "responses", responses


def by_value(config: Config) -> list[dict]:
    """By what factor relative errors come out larger, by function, kind of error and class of values."""
    keys = array_keys(config.seed, "values", config.repeats)
    x = jax.vmap(lambda key: jax.random.normal(key, (config.values,)))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), (config.values,)))(keys)
    spoiled = {name: jax.lax.map(q.roundtrip, x) for name, q in QUANTIZERS.items()}
    spoiled[RELATIVE] = x * (1 + SIZE * noise)
    rows = []
    for error, x_hat in spoiled.items():
        for function in FUNCTIONS:
            rows += [
                {"kind": "error", "error": error, "function": function} | r for r in classes(config, function, x, x_hat)
            ]
    return rows


def classes(
    config: Config, function: str, x: Float[Array, "repeats values"], x_hat: Float[Array, "repeats values"]
) -> Iterator[dict]:
    """Relative rms errors in and out of a function, and their ratio, of each class of values that come out as some."""
    f = FUNCTIONS[function]
    true, given, y, y_hat = (np.asarray(a, np.float64) for a in (x, x_hat, f(x), f(x_hat)))
    for low, high in zip(config.edges[:-1], config.edges[1:], strict=True):
        inside = (true >= low) & (true < high)
        signal, error, out, out_error = (np.sum(a**2, axis=1, where=inside) for a in (true, given - true, y, y_hat - y))
        if out.min() > 0:  # ReLU has no relative error where it is 0
            before, after = root_ratio(error, signal), root_ratio(out_error, out)
            factor = root_ratio(out_error / out, error / signal)
            at = float(np.mean(true, where=inside))
            yield {"low": low, "high": high, "at": at} | columns(before=before, after=after, factor=factor)


def responses() -> list[dict]:
    """The least factor by which |f| grows over a step of 1 away from 0 or towards it, in each tail; exact."""
    rows = []
    for function in SMOOTH:
        for tail, (low, high) in {"left": LEFT, "right": RIGHT}.items():
            x = np.arange(low, high + 0.5)
            y = np.abs(MATHEMATICAL[function](x))
            steps = y[1:] / y[:-1]
            rows.append(
                {"kind": "response", "function": function, "tail": tail, "least": steps.min(), "largest": y.max()}
            )
    return rows


def silu(x: np.ndarray) -> np.ndarray:
    """``x / (1 + exp(-x))``."""
    return x * expit(x)


def gelu(x: np.ndarray) -> np.ndarray:
    """``x Phi(x)``."""
    return x * ndtr(x)


MATHEMATICAL = {"SiLU": silu, "GELU": gelu}


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(list(FUNCTIONS))


def draw(rows: Rows) -> plotting.Figure:
    """What becomes of relative errors, by value; and the functions beside an exponential."""
    figure, axes = plotting.figure(1, 2, height=2.7)
    amplification(axes[0, 0], rows.where(kind="error"))
    curves(axes[0, 1])
    plotting.letter(axes.ravel())
    return figure


def amplification(ax: Axes, rows: Rows) -> None:
    """Relative error out over in: filled for 1 % of each value, open for int8; the slope in logarithms beside it."""
    x = np.linspace(-4, 4, 801)
    for function in SMOOTH:
        style = STYLES[function]
        for error, look in ((RELATIVE, {}), ("int8", {"markerfacecolor": "w"})):
            found = rows.where(function=function, error=error)
            name = Style(style.color, style.marker, f"{function}, {error}")
            plotting.points(ax, found, "at", "factor", series=name, **look)
        y = MATHEMATICAL[function](x)
        slope = np.gradient(y, x)
        with np.errstate(divide="ignore", invalid="ignore"):
            plotting.prediction(ax, x, np.abs(x * slope / y), series=style)
    ax.axvspan(-SMALL, SMALL, color="0.9", lw=0)
    plotting.note(ax, 0.15, 0.13, "A48: amplified here?")
    ax.set(yscale="log", ylim=(0.1, 20), xlabel="value x (std)", ylabel="relative error of f(x) / of x")
    ax.legend(loc="upper right")


def curves(ax: Axes) -> None:
    """|f(x)| on a logarithmic axis, where an exponential is a straight line."""
    x = np.linspace(-8, 8, 801)
    for function in SMOOTH:
        y = np.abs(MATHEMATICAL[function](x))
        ax.plot(x, np.where(y > 0, y, np.nan), color=STYLES[function].color, label=f"|{function}|")
    plotting.prediction(ax, x, np.exp(x), label="exp(x)")
    for tail in (LEFT, RIGHT):
        ax.axvspan(*tail, color="0.93", lw=0)
    plotting.note(ax, 6, 0.02, "B59: exponential\nif parallel\nto exp(x)", ha="center")
    ax.set(yscale="log", ylim=(1e-4, 1e3), xlabel="x", ylabel="|f(x)|")
    ax.legend(loc="upper left")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def small_errors_amplified(rows: Rows) -> float:
    """Share of functions × kinds of error at which the relative error of small values grows by a tenth or more."""
    small = rows.where(kind="error", low=-SMALL, high=SMALL)
    return share(r["factor"] >= A_TENTH for r in small if r["function"] in SMOOTH)


def exponential(rows: Rows) -> float:
    """Share of functions × tails in which |f| at least doubles with every step of 1 in x."""
    return share(rows.where(kind="response").column("least") >= DOUBLES)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A48",
        statement="SiLU/GELU near 0 amplify the larger relative error of small values",
        definition="share of (SiLU, GELU) × (int8, int4, 1 % of each value) in which the relative rms error of values "
        "below 0.1 std is at least 1.1 times as large behind the function as before it",
        number=small_errors_amplified,
        rule=share_of_cases("the relative error grows by a tenth or more"),
        reading="near 0 both are half the identity: relative errors of small values are large before, no larger behind",
    ),
    Claim(
        "B59",
        statement="the activation has an *exponential* response",
        definition="share of (SiLU, GELU) × (x from -8 to -4, x from 4 to 8) in which |f| at least doubles with every "
        "step of 1 in x",
        number=exponential,
        rule=share_of_cases("|f| at least doubles with every step"),
        reading="only in the left tail, on the way from nothing to 0.07; where values are large both are the identity",
    ),
)
