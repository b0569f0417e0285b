"""Which spatial frequencies of a feature map does int8 lose first?

Method. Smooth fields of 32 channels, normal with an amplitude spectrum of 1/f or 1/f², go through 3 × 3 convolutions
whose kernels are smooth (binomial), white or high-pass (Laplacian), each times a random mix of the channels. The
weights or the activations are quantized to int8 with a scale per tensor, per channel or per block of 32 (q8_0's), the
activations also to int4. Power spectra of output and error are averaged over rings of frequency, half an octave wide.
Theory. Errors of weights are a small random kernel, white unless weights are equal: their spectrum is that of the
input, S(f), whatever the kernel h, so the relative error goes as 1 / |h(f)|. Errors of activations are white over the
image and pass the kernel as the signal does: |h(f)|², so the relative error goes as 1 / √S(f), whatever the kernel.
Their sizes are ``theory.weight_mse`` and ``theory.quantization_noise``.
Expected. Quantized activations lose high frequencies first, where smooth fields have little power; quantized weights
only if the kernel is smooth, and low frequencies first if it is high-pass. int8 errors of fields are white, as
neighbours differ by more than a step; int4 ones of the smoothest fields are not. No detail is destroyed by int8.
Instead of white errors symmetric kernels have symmetric ones: equal weights are rounded alike, so that at low
frequencies errors add up, to 7 times the power in the high-pass kernel; those of w, 2 w and 4 w in the smooth one are
correlated, too. Predicted so, they fit, but for blocks, whose largest weight has its multiples at known places.
Refuted if the relative error of quantized weights rises with the frequency for the high-pass kernel: panel d.

Settles A40 and A58 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, mean, root_ratio
from quantsim.outputs.spectra import convolution, frequencies, power_spectrum, ring_means, transfer
from quantsim.populations import Mixture, Normal, Population
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

F64: TypeAlias = NDArray[np.float64]

IN, OUT, SIDE = 32, 4, 3  # channels in and out of the convolution, pixels along a side of its kernel
BLOCK = 32  # values, as in q8_0
SLOPES = {1.0: "1/f", 2.0: "1/f²"}  # of the amplitude of fields; natural images are near 1
WEIGHTS, ACTIVATIONS = "weights", "activations"
TWICE = 2.0  # times the relative error at the lowest frequencies: what counts as lost first
DESTROYED = 0.5  # relative rms error of the highest frequencies


@dataclass(frozen=True)
class Kernel:
    """What all kernels of a layer have in common, times a normal mix of channels; without taps every tap is normal."""

    name: str
    taps: tuple[tuple[float, ...], ...] = ()

    def shape(self) -> F64:
        """Root mean square of each tap, of norm 1."""
        taps = np.array(self.taps or np.ones((SIDE, SIDE)))
        return taps / np.linalg.norm(taps)

    def power(self, size: int) -> F64:
        """Mean of |h(f)|² at each frequency, (size, size)."""
        return np.abs(transfer(self.shape(), size, size)) ** 2 if self.taps else np.ones((size, size))

    def draw(self, config: "Config") -> NDArray[np.float32]:
        """Kernels (units, out, in, 3, 3) of unit norm on average."""
        key = population_key(config.seed, f"kernel {self.name}")
        one = 1 if self.taps else SIDE
        normal = np.asarray(Normal().sample(key, (config.units, OUT, IN, one, one)))
        return (normal * self.shape()).astype(np.float32)

    def error_power(self, size: int) -> F64:
        """Mean of |e(f)|², (size, size), of errors of unit variance, each pair of them correlated as its taps are."""
        if not self.taps:
            return np.full((size, size), float(SIDE**2))
        taps = np.array(self.taps)
        of_tap = {tap: transfer(taps == tap, size, size) for tap in np.unique(taps).tolist()}
        pairs = product(of_tap, repeat=2)
        return np.sum([rounding_correlation(a, b) * (of_tap[a] * of_tap[b].conj()).real for a, b in pairs], axis=0)

    def population(self) -> Population:
        """Law of one weight, as if its place in the kernel were random."""
        sizes, counts = np.unique(np.abs(self.shape()).round(12), return_counts=True)
        return Mixture(tuple(float(n) / SIDE**2 for n in counts), tuple(Normal(float(s)) for s in sizes))


def rounding_correlation(a: float, b: float) -> float:
    """Of the rounding errors of a w and b w over many steps: 1 / pq for odd p and q, else -1 / 2pq, a : b = p : q.

    In lowest terms. Both errors are sawtooths in w, whose Fourier series meet in every p q-th term.
    """
    ratio = Fraction(a) / Fraction(b)
    terms = ratio.numerator * ratio.denominator
    return 1 / terms if (ratio.numerator + ratio.denominator) % 2 == 0 else -1 / (2 * terms)


SMOOTH = Kernel("smooth", ((1.0, 2.0, 1.0), (2.0, 4.0, 2.0), (1.0, 2.0, 1.0)))
WHITE = Kernel("white")
HIGH_PASS = Kernel("high-pass", ((-1.0, -1.0, -1.0), (-1.0, 8.0, -1.0), (-1.0, -1.0, -1.0)))
KERNELS = (SMOOTH, WHITE, HIGH_PASS)


@dataclass(frozen=True)
class Cut:
    """Values that share a scale: rows of an array whose first axes (1, units, or 2, channels, too) count the rows."""

    name: str
    spec: str
    rows: int
    judged: bool = True  # whether the documents speak of it

    def of(self, a: NDArray[np.float32]) -> NDArray[np.float32]:
        """The array as rows."""
        return a.reshape(prod(a.shape[: self.rows]), -1)

    def error(self, a: NDArray[np.float32]) -> F64:
        """Error of each value, in its unit."""
        known = self.of(a)
        return (np.asarray(parse(self.spec).roundtrip(known), np.float64) - known).reshape(a.shape)


TENSOR, CHANNEL = Cut("int8, tensor", "int8:channel", 1), Cut("int8, channel", "int8:channel", 2)
BLOCKS = Cut("int8, blocks of 32", f"int8:block{BLOCK}", 2)
COARSE = Cut("int4, tensor", "int4:channel", 1, judged=False)
CUTS = {WEIGHTS: (TENSOR, CHANNEL, BLOCKS), ACTIVATIONS: (TENSOR, CHANNEL, BLOCKS, COARSE)}


@dataclass(frozen=True)
class Config:
    """Pixels along a side of a field, and independent fields and kernels."""

    size: int = 64
    units: int = 8
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Smaller and fewer fields."""
        return cls(size=32, units=2)

    def rings(self) -> F64:
        """Edges of rings in cycles per pixel, just below half octaves of the lowest frequency up to 1/2."""
        count = int(2 * np.log2(self.size / 2))
        return 0.99 / self.size * 2.0 ** (np.arange(count + 1) / 2)


def measure(config: Config) -> Iterator[Cell]:
    """One cell for each slope and kernel, and one for the errors of the fields themselves."""
    for slope in SLOPES:
        for kernel in KERNELS:
            yield f"amplitude f^-{slope:g}, {kernel.name}", partial(spectra, config, slope, kernel)
        yield f"amplitude f^-{slope:g}, field", partial(whiteness, config, slope)


@lru_cache(1)
def fields(config: Config, slope: float) -> NDArray[np.float32]:
    """Normal fields (units, in, size, size) of unit variance, mean zero and this slope."""
    key = population_key(config.seed, f"field {slope:g}")
    white = np.asarray(Normal().sample(key, (config.units, IN, config.size, config.size)), np.float64)
    return np.fft.ifft2(np.fft.fft2(white) * np.sqrt(field_power(config, slope))).real.astype(np.float32)


def field_power(config: Config, slope: float) -> F64:
    """S(f) = f^(-2 slope) of mean 1, none at f = 0."""
    f = frequencies(config.size, config.size)
    power = np.where(f > 0, np.maximum(f, 1 / config.size) ** (-2 * slope), 0.0)
    return power / power.mean()


class Predicted(NamedTuple):
    """Expected power of an output and of its error at each frequency, (size, size)."""

    signal: F64
    error: F64


def spectra(config: Config, slope: float, kernel: Kernel) -> list[dict[str, Any]]:
    """Spectra of the outputs and of their errors, each kind of array quantized with each cut."""
    x, w = fields(config, slope), kernel.draw(config)
    signal = spectrum(config, x, w)
    rows = []
    for quantized, cuts in CUTS.items():
        for cut in cuts:
            factors = (x, cut.error(w)) if quantized == WEIGHTS else (cut.error(x), w)
            error = spectrum(config, *factors)
            about = {"kind": "output", "slope": slope, "kernel": kernel.name, "quantized": quantized, "cut": cut.name}
            about["judged"] = cut.judged
            expected = predicted(config, slope, kernel, quantized, cut)
            rows += [about | row for row in by_ring(config, signal, error, expected)]
    return rows


def spectrum(config: Config, x: NDArray[Any], w: NDArray[Any]) -> F64:
    """Power of the outputs of each unit in each ring, (units, rings), mean over the output channels."""
    return ring_means(power_spectrum(convolution(x, w)), config.rings()).mean(axis=1)


def by_ring(config: Config, signal: F64, error: F64, expected: Predicted) -> list[dict[str, float]]:
    """A row for each ring: frequency (cycles per pixel), powers of signal and error, and the root of their ratio."""
    edges = config.rings()
    of_signal, of_error = ring_means(np.stack(expected), edges)
    rows = []
    for ring, frequency in enumerate(np.sqrt(edges[1:] * edges[:-1])):
        row = {"frequency": frequency, "predicted_signal": of_signal[ring], "predicted_error": of_error[ring]}
        row["predicted_rel_rms"] = np.sqrt(of_error[ring] / of_signal[ring])
        found = signal[:, ring], error[:, ring]
        estimates = {"signal": mean(found[0]), "error": mean(found[1]), "rel_rms": root_ratio(found[1], found[0])}
        rows.append(row | columns(**estimates))
    return rows


def predicted(config: Config, slope: float, kernel: Kernel, quantized: str, cut: Cut) -> Predicted:
    """Signal |h|² S; error |e|² mse S of weights (e of unit variance), |h|² mse of activations."""
    of_kernel, of_field = kernel.power(config.size), field_power(config, slope)
    signal = IN * of_kernel * of_field
    if quantized == ACTIVATIONS:
        return Predicted(signal, IN * of_kernel * field_mse(config, slope, cut))
    sharing = OUT * IN * SIDE**2 if cut is TENSOR else IN * SIDE**2
    mse = theory.weight_mse(kernel.population(), parse(cut.spec), (1, sharing))
    return Predicted(signal, IN * kernel.error_power(config.size) * mse * of_field)


def field_mse(config: Config, slope: float, cut: Cut) -> float:
    """E[e²] of normal fields at the steps that were found; the largest of the values that share one has no error."""
    found = parse(cut.spec).quantize(cut.of(fields(config, slope)))
    scales = np.asarray(found.scale, np.float64)
    sharing = found.codes.size / scales.size
    step = float(np.sqrt(np.mean(scales**2)))
    return theory.quantization_noise(Normal(), step).mse * (1 - 1 / sharing)


def whiteness(config: Config, slope: float) -> list[dict[str, Any]]:
    """Spectrum of the error of the quantized fields themselves, over the flat one that theory predicts."""
    x, rows = fields(config, slope), []
    for cut in CUTS[ACTIVATIONS]:
        of_units = ring_means(power_spectrum(cut.error(x)), config.rings()).mean(axis=1)
        over_flat = of_units / field_mse(config, slope, cut)
        about = {"kind": "field", "slope": slope, "cut": cut.name, "series": f"{cut.name}, {SLOPES[slope]}"}
        for ring, frequency in enumerate(np.sqrt(config.rings()[1:] * config.rings()[:-1])):
            row = {"frequency": frequency, "predicted_over_flat": 1.0}
            rows.append(about | row | columns(over_flat=mean(over_flat[:, ring])))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

OF_KERNEL = plotting.styles(kernel.name for kernel in KERNELS)
OF_SLOPE = {
    1.0: Style(plotting.BLUE, "o", SLOPES[1.0]),
    2.0: Style(plotting.VERMILION, "s", SLOPES[2.0]),
}
OF_FIELD = plotting.styles(f"{cut.name}, {SLOPES[slope]}" for cut in (TENSOR, COARSE) for slope in SLOPES)
SIGNAL = Style(plotting.BLACK, "o", "output")
OF_QUANTIZED = {
    WEIGHTS: Style(plotting.BLUE, "s", "error, weights"),
    ACTIVATIONS: Style(plotting.VERMILION, "^", "error, activations"),
}
FREQUENCY = "frequency (cycles per pixel)"


def draw(rows: Rows) -> plotting.Figure:
    """Spectra of each kernel; relative errors by weights and by activations; whiteness."""
    fig, axes = plotting.figure(2, 3, height=4.8)
    outputs = rows.where(kind="output")
    for ax, kernel in zip(axes[0], KERNELS, strict=True):
        powers(ax, outputs.where(slope=1.0, kernel=kernel.name, cut=CHANNEL.name), kernel)
    by_kernel = outputs.where(slope=1.0, quantized=WEIGHTS, cut=CHANNEL.name)
    relative_errors(axes[1, 0], by_kernel, "kernel", OF_KERNEL, "weights, int8 per channel (A58)")
    by_slope = outputs.where(kernel=WHITE.name, quantized=ACTIVATIONS, cut=BLOCKS.name)
    relative_errors(axes[1, 1], by_slope, "slope", OF_SLOPE, "activations, blocks of 32 (A40, A58)")
    flatness(axes[1, 2], rows.where(kind="field"))
    plotting.letter(axes.ravel())
    return fig


def over_frequency(ax: plotting.Axes, **look: Any) -> None:
    """Axes of a panel over the frequency, in octaves."""
    ax.set_xscale("log", base=2)
    ax.set(xlabel=FREQUENCY, **look)


def powers(ax: plotting.Axes, rows: Rows, kernel: Kernel) -> None:
    """Power of the output, and of its error by quantized weights and activations."""
    plotting.measured(ax, rows.where(quantized=WEIGHTS), "frequency", "signal", series=SIGNAL)
    plotting.family(ax, rows, "frequency", "error", by="quantized", styles=OF_QUANTIZED)
    over_frequency(ax, yscale="log", ylabel="power (output units²)", ylim=(1e-7, 3e5))
    plotting.note(ax, 0.97, 0.04, f"{kernel.name} kernel", transform=ax.transAxes, ha="right")
    if kernel is HIGH_PASS:
        ax.legend(loc="upper right", title="1/f, int8 per channel")


def relative_errors(ax: plotting.Axes, rows: Rows, by: str, styles: dict[Any, Style], title: str) -> None:
    """Error of the output relative to the output at the same frequency."""
    plotting.family(ax, rows, "frequency", "rel_rms", by=by, styles=styles)
    over_frequency(ax, yscale="log", ylabel="error / output, rms", ylim=(1e-5, 30))
    ax.axhline(DESTROYED, color="0.4", lw=0.9, ls=":")
    plotting.note(ax, 0.97, 0.04, title, transform=ax.transAxes, ha="right")
    ax.legend(loc="upper right")


def flatness(ax: plotting.Axes, rows: Rows) -> None:
    """Spectrum of the error of the fields over a flat one."""
    plotting.family(ax, rows, "frequency", "over_flat", by="series", styles=OF_FIELD)
    over_frequency(ax, ylabel="error of activations, power / flat", ylim=(0.5, 4.0))
    ax.legend(loc="upper right")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def at_the_ends(rows: Rows) -> tuple[float, float]:
    """Relative error at the lowest and at the highest frequencies."""
    by_frequency = rows.by("frequency", "rel_rms")
    return by_frequency[min(by_frequency)], by_frequency[max(by_frequency)]


def high_first(rows: Rows) -> float:
    """Share of slopes × kernels × (weights, activations) × cuts with twice the relative error at high frequencies."""
    cases = rows.where(kind="output", judged=True).groups("slope", "kernel", "quantized", "cut").values()
    ends = (at_the_ends(case) for case in cases)
    return share(high >= TWICE * low for low, high in ends)


def detail_destroyed(rows: Rows) -> float:
    """Share of slopes × kernels × (weights, activations) in blocks of 32 that lose half of the highest frequencies."""
    cases = rows.where(kind="output", cut=BLOCKS.name).groups("slope", "kernel", "quantized").values()
    return share(at_the_ends(case)[1] >= DESTROYED for case in cases)


# Each number is a share of cases: a statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A40",
        statement="q8_0 loses precision of *feature maps*, destroying skip high-frequency detail",
        definition="share of (1/f, 1/f² fields) × (smooth, white, high-pass kernel) × (weights, activations) in int8 "
        "blocks of 32 in which the rms error of the highest half octave is at least half of the output there",
        number=detail_destroyed,
        rule=share_of_cases("half of the detail's amplitude is error"),
        reading="in synthetic fields the finest detail errs by a tenth at most, where a field has least of it; what a "
        "trained network makes of that is another question",
    ),
    Claim(
        "A58",
        statement="quantization loses high-frequency information first",
        definition="share of (1/f, 1/f²) × (smooth, white, high-pass kernel) × (weights, activations) × (tensor, "
        "channel, block of 32) in int8 whose relative rms error in the highest half octave is at least twice that in "
        "the lowest",
        number=high_first,
        rule=share_of_cases("high frequencies lose twice as much of themselves"),
        reading="true of quantized activations, whose white error meets little power there; of quantized weights only "
        "if the kernel is smooth, and a high-pass kernel loses low frequencies first",
    ),
)
