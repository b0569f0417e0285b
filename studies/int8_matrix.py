"""What does int8 really do to the documents' 16×32 matrix, and how far is that from bf16?

The appendix' own code is run (``np.random.seed(42)``, uniform, float32), once as it is and once after rounding to bf16,
and its statistics stand beside the printed ones. Errors against magnitude come from a large population of the same
distribution. Expected: |e| <= scale / 2 and mean |e| = scale / 4. Refuted if any error exceeds half a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlparse

import jax.numpy as jnp
import numpy as np

from quantsim import plotting
from quantsim.claims import Claim, Rule, at_least, at_most, no_statement, share_of_cases, stated
from quantsim.errors import class_stats, error, error_stats
from quantsim.formats import Float, largest
from quantsim.formats import parse as parse_format
from quantsim.matrix import LEGEND, document_matrix, report
from quantsim.populations import Uniform, key
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.study import Cell

# What the document prints: coordinate, weight, code, dequantized weight, error.
TABLE = (
    (0, 0, 0.812, 82, 0.806, 0.006), (0, 1, -0.742, -75, -0.738, 0.004), (0, 2, 0.391, 39, 0.383, 0.008),
    (1, 0, -0.928, -94, -0.922, 0.006), (1, 1, 0.162, 16, 0.157, 0.005), (1, 2, -0.504, -51, -0.500, 0.004),
    (2, 0, 0.674, 68, 0.669, 0.005), (2, 1, -0.319, -32, -0.314, 0.005), (2, 2, 0.957, 97, 0.956, 0.001),
)  # fmt: skip
DRAWN_DARK = ((0, 4), (1, 1))  # the only cells that its heat map draws above 0.003
SCALE, LINK = 0.00983, "https://example.com/matrix_data.csv"
HALF_STEP = SCALE / 2
SPECS = ("bf16", "int8:tensor", "int8:block32:absmax:f16")


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
        "bf16_over_int8": error_stats(w, parse("bf16").roundtrip(w)).rel_rms / report(w, q)["rel_rms"],
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


def draw(rows: Rows):  # noqa: ANN201
    """The matrix before, after, its error and the document's map; the errors' histogram; errors against magnitude."""
    fig, axes = plotting.figure(3, 3, height=5.0, height_ratios=(1, 1, 1.5))
    m = rows.where(kind="matrix", first="float32")[0]
    w, codes, e = (np.array(m[name]) for name in ("w", "codes", "e"))
    e_abs = np.abs(e)
    drawn = np.full(w.shape, 0.0015)
    drawn[tuple(np.array(DRAWN_DARK).T)] = 0.0045
    _map(axes[0, 0], w, "weights", cmap="RdBu", vmin=-1, vmax=1)
    _map(axes[0, 1], codes, "int8 codes", cmap="RdBu", vmin=-127, vmax=127)
    _map(axes[0, 2], codes * m["scale"], "weights after", cmap="RdBu", vmin=-1, vmax=1)
    _map(axes[1, 0], e, "error", cmap="PuOr", vmin=-0.004, vmax=0.004)
    palette = {"cmap": "Greys", "vmin": 0.0, "vmax": 0.012}
    _map(
        axes[1, 1],
        np.digitize(e_abs, [h for h, _ in LEGEND[:-1]]) * 0.003 + 0.0015,
        "|error| in the document's classes",
        **palette,
    )
    _map(axes[1, 2], drawn, "what the document drew", **palette)
    _histogram(axes[2, 0], e_abs, m["scale"])
    _against_magnitude(axes[2, 1], rows, "mean_abs", "mean |error| (weight units)")
    _against_magnitude(axes[2, 2], rows, "mean_relative", "mean |error| / |weight|")
    axes[2, 1].legend(loc="lower right")
    plotting.letter(axes.ravel())
    return fig


def _map(ax, values: np.ndarray, title: str, **kw) -> None:  # noqa: ANN001, ANN003
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **kw)
    ax.set(xticks=[], yticks=[], xlabel=title)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)


def _histogram(ax, e_abs: np.ndarray, scale: float) -> None:  # noqa: ANN001
    ax.hist(e_abs.ravel() * 1e3, bins=np.arange(0, 13, 0.5), color=plotting.COLORS[0], label="measured, 512 weights")
    ax.axvspan(scale / 2 * 1e3, 12.5, color=plotting.COLORS[1], alpha=0.15, lw=0)
    ax.text(
        8.4,
        0.92,
        "impossible:\nbeyond half a step",
        transform=ax.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=6.5,
    )
    for x, y, text in ((4.3, 0.45, "B11 stated mean"), (12.0, 0.3, "B10 stated max")):
        ax.axvline(x, color="0.1", lw=0.8, ls=":")
        ax.text(x - 0.15, y, text, transform=ax.get_xaxis_transform(), rotation=90, ha="right", fontsize=6)
    ax.set(xlabel="|error| (1e-3 weight units)", ylabel="weights", xlim=(0, 12.5))


def _against_magnitude(ax, rows: Rows, column: str, label: str) -> None:  # noqa: ANN001
    for at, spec in enumerate(SPECS):
        c = Rows(r for r in rows.where(kind="class", spec=spec) if r["count"] > 50)
        middle = np.sqrt(np.maximum(c.column("low"), 5e-5) * c.column("high"))
        plotting.curve(ax, middle, c.column(column), series=at, label=spec, ms=2)
    ax.set(xscale="log", yscale="log", xlabel="|weight|", ylabel=label)


def _of(name: str, **where: str):  # noqa: ANN202
    return lambda rows: rows.where(**({"kind": "matrix", "first": "float32"} | where)).one(name)


def _doc(name: str):  # noqa: ANN202
    return lambda rows: rows.where(kind="document").one(name)


def _bin_shares_found(rows: Rows) -> float:
    bins = rows.where(kind="matrix", first="float32")[0]["bins"]
    return sum(abs(b["share"] - b["stated"]) for b in bins) / 2


_MATCHES = Rule(
    "contradicts itself unless the map shows the legend's 35 %",
    lambda v, se: "holds" if abs(v - 0.35) < 0.005 else "self-contradiction",
)

CLAIMS = (
    Claim("B01", "mantissa bits of bf16", _doc("mantissa_bits"), stated(7, 0), "16 bits, largest value 3.39e38"),
    Claim("B02", "scale × 127 / max |w|", lambda r: _of("scale")(r) * 127 / _of("absmax")(r), stated(1, 2**-23)),
    Claim("B03", "codes of 512 that differ from the formula in NumPy", _of("codes_differing"), stated(0, 0)),
    Claim("B04", "share of the nine rows whose weight is the seed-42 weight there", _doc("at_seed"), share_of_cases("the weight agrees to three decimals"), "none of the nine weights is in the matrix"),
    Claim("B05", "share of the 18 printed weights that a bf16 number rounds to", _doc("bf16"), share_of_cases("the number is a bf16 number to three decimals")),
    Claim("B06", "entries listed", _doc("rows"), stated(16, 0), "3×3 entries are listed as a 4×4 sub-matrix"),
    Claim("B07", "1 if the link's host is reserved for documentation (RFC 2606)", _doc("reserved_link"), at_most(0), "the link cannot lead to data"),
    Claim("B08", "share of cells drawn as <= 0.003", _doc("drawn_light"), _MATCHES, "the map shows {value:.1%} light cells, its legend says 35 %"),
    Claim("B09", "share of weights that are in another class than stated (total variation)", _bin_shares_found, stated(0, 0.01, limit=np.inf if LEGEND[2][0] <= HALF_STEP else -1.0), "errors above half the stated scale, 0.0049, cannot occur"),
    Claim("B10", "max |e|", _of("max_abs"), stated(0.012, 0.0005, limit=HALF_STEP), "measured {value:.5f}, half a step"),
    Claim("B11", "mean |e|", _of("mean_abs"), stated(0.0043, 0.00005), "measured {value:.5f}: a quarter step"),
    Claim("B12", "share of weights with |e| > 0.01", _of("above_01"), stated(0.0117, 0.00005, limit=0.0 if HALF_STEP <= 0.01 else np.inf)),
    Claim("B13", "share of weights with |e| >= 0.005 (stated: 1 - 0.623)", _of("from_005"), stated(0.377, 0.0005, limit=0.0 if HALF_STEP < 0.005 else np.inf)),
    Claim("B14", "scale", _of("scale"), stated(0.00983, 0.000005, limit=1 / 127), "weights below 1 cannot give more than 1/127"),
    Claim("B15", "mean |e| / max |w|", lambda r: _of("mean_abs")(r) / _of("absmax")(r), stated(0.0043, 0.00005)),
    Claim("B16", "max |e| / max |w|", lambda r: _of("max_abs")(r) / _of("absmax")(r), stated(0.012, 0.0005, limit=HALF_STEP), "at most 1/254, anywhere between two codes"),
    Claim("B17", "share of two definitions (|e|, |e|/|w|) by which |w| < 0.5 err over 5 % more", lambda r: float(np.mean([_of(f"small_over_large_{d}")(r) > 1.05 for d in ("abs", "rel")])), share_of_cases("the mean error of |w| < 0.5 is more than 5 % above the others'"), "relative to the weight only; the absolute error does not depend on it"),
    Claim("B18", "weights of 512 beyond the last code", _of("clipped"), at_least(1), "with scale = max |w| / 127 nothing is clipped"),
    Claim("B21", "share of the weights in the code that are bf16 numbers", _of("share_bf16"), share_of_cases("the weight is a bf16 number"), "the array is float32"),
    Claim("B22", "share of the printed scale, max and mean that the code prints", lambda r: float(np.mean([abs(_of(n)(r) - v) <= t for n, v, t in (("scale", 0.00983, 5e-6), ("max_abs", 0.012, 5e-4), ("mean_abs", 0.0043, 5e-5))])), share_of_cases("the number agrees to its last digit")),
    Claim("B23", "panels of this figure that are such a map or histogram", lambda r: 7, no_statement("advice on plotting; followed here")),
    Claim("B80", "rms error of bf16 over rms error of int8, both from float32", _of("bf16_over_int8"), at_most(0.1), "bf16 is no reference without error: its own is {value:.2f} of int8's"),
)  # fmt: skip
