"""What does int8 really do to the documents' 16×32 matrix, and how far is that from bf16?

The appendix' own code is run (``np.random.seed(42)``, uniform, float32), once as it is and once after rounding to bf16,
and its statistics stand beside the printed ones. Errors against magnitude come from a large population of the same
distribution. Expected: |e| <= scale / 2 and mean |e| = scale / 4. Refuted if any error exceeds half a step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import jax.numpy as jnp
import numpy as np

from quantsim.formats import Float, largest
from quantsim.formats import parse as parse_format
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, at_least, at_most, no_statement, share_of_cases, stated
from quantsim.lab.matrix import LEGEND, document_matrix, report
from quantsim.lab.study import Cell
from quantsim.measure.statistics import class_stats, error, error_stats
from quantsim.populations import Uniform, key
from quantsim.quantizer import parse
from quantsim.rows import Rows

# What the document prints: coordinate, weight, code, dequantized weight, error.
TABLE = (
    (0, 0, 0.812, 82, 0.806, 0.006), (0, 1, -0.742, -75, -0.738, 0.004), (0, 2, 0.391, 39, 0.383, 0.008),
    (1, 0, -0.928, -94, -0.922, 0.006), (1, 1, 0.162, 16, 0.157, 0.005), (1, 2, -0.504, -51, -0.500, 0.004),
    (2, 0, 0.674, 68, 0.669, 0.005), (2, 1, -0.319, -32, -0.314, 0.005), (2, 2, 0.957, 97, 0.956, 0.001),
)  # fmt: skip
DRAWN_DARK = ((0, 4), (1, 1))  # the only cells that its heat map draws above 0.003
SCALE, LINK = 0.00983, "https://example.com/matrix_data.csv"
HALF_STEP = SCALE / 2
SPECS = {"bf16": "bf16", "int8:tensor": "int8", "q8_0": "q8_0"}


@dataclass(frozen=True)
class Config:
    """The document's seed, and the population behind the error curves."""

    seed: int = 42
    shape: tuple[int, int] = (4096, 4096)
    classes: int = 40

    @classmethod
    def small(cls) -> "Config":
        """A smaller population."""
        return cls(shape=(256, 1024))


def measure(config: Config) -> Iterator[Cell]:
    """The matrix as it is and from bf16; errors by magnitude class."""
    yield "matrix", lambda: [_matrix(config.seed, first) for first in ("float32", "bf16")] + [_document(config.seed)]
    yield "classes", lambda: _classes(config)


def _matrix(seed: int, first: str) -> dict:
    w = jnp.asarray(document_matrix(seed))
    w = w if first == "float32" else parse("bf16").roundtrip(w)
    q = parse("int8:tensor")
    qw, w_hat = q.quantize(w), q.roundtrip(w)
    e, magnitude = np.abs(np.asarray(error(w, w_hat))), np.abs(np.asarray(w))
    scale = np.float32(np.abs(np.asarray(w)).max() / np.float32(127.0))
    by_hand = np.round(np.clip(np.asarray(w) / scale, -127, 127))
    return report(w, q) | {
        "kind": "matrix", "first": first, "w": w, "codes": qw.codes, "e": error(w, w_hat),
        "absmax": magnitude.max(), "above_01": (e > 0.01).mean(), "from_005": (e >= 0.005).mean(),
        "codes_differing": int((by_hand != np.asarray(qw.codes)).sum()), "clipped": int(q.clipped(w).sum()),
        "small_over_large_abs": e[magnitude < 0.5].mean() / e[magnitude >= 0.5].mean(),
        "small_over_large_rel": (e / magnitude)[magnitude < 0.5].mean() / (e / magnitude)[magnitude >= 0.5].mean(),
        "bf16_over_int8": error_stats(w, parse("bf16").roundtrip(w)).rel_rms / error_stats(w, w_hat).rel_rms,
        "share_bf16": float((parse("bf16").roundtrip(w) == w).mean()),
    }  # fmt: skip


def _document(seed: int) -> dict:
    """What can be checked of the printed table by itself."""
    w, bf16 = document_matrix(seed), parse("bf16")
    at_seed = [round(float(w[i, j]), 3) == v for i, j, v, *_ in TABLE]
    follows = [
        round(v / SCALE) == c and abs(c * SCALE - d) < 6e-4 and abs(abs(v - d) - e) < 6e-4 for _, _, v, c, d, e in TABLE
    ]
    numbers = np.array([v for row in TABLE for v in (row[2], row[4])])
    is_bf16 = np.abs(np.asarray(bf16.roundtrip(numbers)) - numbers) <= 5.001e-4
    return {
        "kind": "document", "at_seed": np.mean(at_seed), "follows_scale": np.mean(follows), "bf16": is_bf16.mean(),
        "rows": len(TABLE), "drawn_light": 1 - len(DRAWN_DARK) / 512,
        "reserved_link": float((urlparse(LINK).hostname or "").endswith("example.com")),
        "mantissa_bits": _bf16().mantissa_bits, "exponent_bits": _bf16().exponent_bits, "largest": largest(_bf16()),
    }  # fmt: skip


def _bf16() -> Float:
    fmt = parse_format("bf16")
    assert isinstance(fmt, Float)
    return fmt


def _classes(config: Config) -> list[dict]:
    w = Uniform(3**-0.5).sample(key(config.seed), config.shape)
    edges = (0.0, *np.geomspace(1e-4, 1.0, config.classes).tolist())
    rows = []
    for spec in SPECS:
        c = class_stats(w, parse(spec).roundtrip(w), edges)
        for low, high, n, mean, relative in zip(edges, edges[1:], c.count, c.mean_abs, c.mean_relative, strict=False):
            rows.append(
                {
                    "kind": "class",
                    "spec": spec,
                    "low": low,
                    "high": high,
                    "count": n,
                    "mean_abs": mean,
                    "mean_relative": relative,
                }
            )
    return rows


def draw(rows: Rows) -> plotting.Figure:
    """The matrix before, after, its error and the document's map; the errors' histogram; errors against magnitude."""
    fig, axes = plotting.figure(3, 3, height=5.0, height_ratios=(1, 1, 1.7))
    m = rows.where(kind="matrix", first="float32")[0]
    w, codes, e = (np.array(m[name]) for name in ("w", "codes", "e"))
    drawn = np.zeros(w.shape)
    drawn[tuple(np.array(DRAWN_DARK).T)] = 1
    classes = np.digitize(np.abs(e), [high for high, _ in LEGEND[:-1]])
    diverging = {"cmap": "RdBu", "vmin": -1, "vmax": 1}
    _map(axes[0, 0], w, "weights", **diverging)
    _map(axes[0, 1], codes / 127, "int8 codes / 127", **diverging)
    _map(axes[0, 2], codes * m["scale"], "weights after", **diverging)
    _map(axes[1, 0], e / m["scale"], "error / step (±½)", cmap="PuOr", vmin=-0.5, vmax=0.5)
    _map(axes[1, 1], classes, "|error| class: ≤ .003 light, ≤ .006 dark", cmap="Greys", vmin=-0.3, vmax=3)
    _map(axes[1, 2], drawn, "what the document drew (B08)", cmap="Greys", vmin=-0.3, vmax=3)
    _histogram(axes[2, 0], np.abs(e), m["scale"])
    _against_magnitude(axes[2, 1], rows, "mean_abs", "mean |error| (weight units)")
    _against_magnitude(axes[2, 2], rows, "mean_relative", "mean |error| / |weight|")
    axes[2, 1].legend(loc="lower right", handlelength=1.0, borderpad=0.1)
    plotting.letter(axes.ravel())
    return fig


def _map(ax: plotting.Axes, values: np.ndarray, title: str, **style: Any) -> None:
    ax.imshow(values, aspect="auto", interpolation="nearest", **style)
    ax.set(xticks=[], yticks=[], xlabel=title)
    ax.grid(False)


def _histogram(ax: plotting.Axes, e_abs: np.ndarray, scale: float) -> None:
    ax.hist(e_abs.ravel() * 1e3, bins=np.arange(0, 4.01, 0.25).tolist(), color=plotting.COLORS[0])
    ax.axvspan(scale / 2 * 1e3, 12.7, color=plotting.COLORS[1], alpha=0.15, lw=0)
    top = ax.get_xaxis_transform()
    ax.text(8.3, 0.97, "impossible:\nbeyond half a step", transform=top, ha="center", va="top", fontsize=6.5)
    for x, text in ((4.3, "B11: stated mean"), (12.0, "B10: stated maximum")):
        ax.axvline(x, color="0.1", lw=0.8, ls=":")
        ax.text(
            x + (0.5 if x < 8 else -0.2),
            0.08,
            text,
            transform=top,
            rotation=90,
            ha="left" if x < 8 else "right",
            fontsize=6,
        )
    ax.set(xlabel="|error| (10⁻³ weight units)", ylabel="weights, of 512", xlim=(0, 12.7))


def _against_magnitude(ax: plotting.Axes, rows: Rows, column: str, label: str) -> None:
    for at, (spec, name) in enumerate(SPECS.items()):
        c = Rows(r for r in rows.where(kind="class", spec=spec) if r["count"] > 50 and r["low"] > 0)
        ls = "--" if at == 2 else "-"
        plotting.curve(
            ax,
            np.sqrt(c.column("low") * c.column("high")),
            c.column(column),
            series=at,
            label=name,
            ms=1.8,
            linestyle=ls,
        )
    ax.set(xscale="log", yscale="log", xlabel="|weight|", ylabel=label)


def _of(name: str) -> Callable[[Rows], Any]:
    return lambda rows: rows.where(kind="matrix", first="float32").one(name)


def _doc(name: str) -> Callable[[Rows], float]:
    return lambda rows: rows.where(kind="document").one(name)


def _over_absmax(name: str) -> Callable[[Rows], float]:
    return lambda rows: _of(name)(rows) / _of("absmax")(rows)


def _in_other_class(rows: Rows) -> float:
    return sum(abs(b["share"] - b["stated"]) for b in _of("bins")(rows)) / 2


def _more_error(rows: Rows) -> float:
    return float(np.mean([_of(f"small_over_large_{d}")(rows) > 1.05 for d in ("abs", "rel")]))


def _printed(rows: Rows) -> float:
    printed = (("scale", 0.00983, 5e-6), ("max_abs", 0.012, 5e-4), ("mean_abs", 0.0043, 5e-5))
    return float(np.mean([abs(_of(name)(rows) - value) <= within for name, value, within in printed]))


def _allowed(stated_error: float) -> float:
    """Bound on a share of errors above ``stated_error`` that half of the stated scale puts on it."""
    return 0.0 if stated_error >= HALF_STEP else np.inf


_AS_LEGEND = Rule(
    "contradicts itself unless the map shows the 35 % of its legend",
    lambda value, _se: "holds" if abs(value - 0.35) <= 0.005 else "self-contradiction",
)

CLAIMS = (
    Claim("B01", "mantissa bits of bf16", _doc("mantissa_bits"), stated(7, 0), "16 bits with 8 of exponent"),
    Claim("B02", "scale × 127 / max |w|", lambda r: 127 * _of("scale")(r) / _of("absmax")(r), stated(1, 2**-23)),
    Claim("B03", "codes of 512 that differ from the formula in NumPy", _of("codes_differing"), stated(0, 0)),
    Claim("B04", "share of the nine weights that the seed-42 matrix has at their place", _doc("at_seed"),
          share_of_cases("the weight agrees to three decimals"), "none of the nine printed weights is in the matrix"),
    Claim("B05", "share of the 18 printed weights that are bf16 numbers", _doc("bf16"),
          share_of_cases("a bf16 number rounds to it at three decimals"), "{value:.0%} of the printed weights can be"),
    Claim("B06", "entries listed", _doc("rows"), stated(16, 0), "a 3×3 corner is listed as a 4×4 one"),
    Claim("B07", "1 if the link's host is reserved for documentation (RFC 2606)", _doc("reserved_link"), at_most(0),
          "the link cannot lead to data"),
    Claim("B08", "share of cells drawn as ≤ 0.003", _doc("drawn_light"), _AS_LEGEND,
          "the map shows {value:.1%} light cells, its own legend says 35 %"),
    Claim("B09", "total variation between measured and stated class shares", _in_other_class,
          stated(0, 0.01, limit=-1.0 if LEGEND[1][0] > HALF_STEP else np.inf),
          "17 % are stated to lie above 0.006, but half the stated scale is 0.0049"),
    Claim("B10", "max |e|", _of("max_abs"), stated(0.012, 0.0005, limit=HALF_STEP), "half a step: {value:.5f}"),
    Claim("B11", "mean |e|", _of("mean_abs"), stated(0.0043, 0.00005), "a quarter step: {value:.5f}"),
    Claim("B12", "share of weights with |e| > 0.01", _of("above_01"), stated(0.0117, 0.00005, limit=_allowed(0.01)),
          "no error exceeds half a step"),
    Claim("B13", "share of weights with |e| ≥ 0.005 (stated: 1 − 0.623)", _of("from_005"),
          stated(0.377, 0.0005, limit=_allowed(0.005)), "all errors are below 0.005"),
    Claim("B14", "scale", _of("scale"), stated(0.00983, 0.000005, limit=1 / 127),
          "weights within ±1 give at most 1/127 = 0.00787"),
    Claim("B15", "mean |e| / max |w|", _over_absmax("mean_abs"), stated(0.0043, 0.00005), "a quarter of 1/127"),
    Claim("B16", "max |e| / max |w|", _over_absmax("max_abs"), stated(0.012, 0.0005, limit=HALF_STEP),
          "1/254 of the largest weight, and anywhere between two codes"),
    Claim("B17", "share of two definitions (mean |e|, mean |e|/|w|) by which |w| < 0.5 has over 5 % more error",
          _more_error, share_of_cases("it has"), "only relative to the weight; the absolute error is even"),
    Claim("B18", "weights of 512 beyond the last code", _of("clipped"), at_least(1),
          "with scale = max |w| / 127 nothing is ever clipped"),
    Claim("B21", "share of the code's weights that are bf16 numbers", _of("share_bf16"),
          share_of_cases("the weight is unchanged by rounding to bf16"), "the code makes a float32 array"),
    Claim("B22", "share of the printed scale, maximum and mean that the code gives", _printed,
          share_of_cases("the number agrees to its last digit"), "the code never gave these numbers"),
    Claim("B23", "none", lambda _rows: np.nan, no_statement("advice on plotting"), "followed in this figure"),
    Claim("B80", "rms error of bf16 / rms error of int8, both against float32", _of("bf16_over_int8"), at_most(0.1),
          "bf16 is no error-free reference: its own error is {value:.2f} of int8's on these weights"),
)  # fmt: skip
