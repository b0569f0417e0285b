"""Is every error what theory says it must be, for every format, population and granularity?

``theory.weight_rel_mse`` computes the relative mean squared error of an infinite population from the density and the
facts of the quantizer alone: no weight is drawn, nothing is rounded. Here each pair of population and quantizer gets
weights of its own, so that no two residuals share their luck, and is measured with the package's quantizers; arrays are
the units of the standard error. The residual is (measured - predicted) / standard error. If both sides are right, the
residuals are independent and standard normal: mean 0, standard deviation 1, as many beyond 2 and 3 as there should be.
Refuted, for the pair, by a residual that so many draws do not explain; for theory or quantizers as a whole, by a
Kolmogorov-Smirnov test. Heavy tails stop at Student's t with 12 degrees of freedom, because the residual of a mean
whose terms have hardly a variance is not normal. Pairs without theory are left out: searched scales, and the rms of
weights with rare outliers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import gcd, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from quantsim import quantizer, theory
from quantsim._types import PRNGKey
from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.measure import statistics
from quantsim.populations import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

POPULATIONS = (
    "normal", "laplace", "uniform", "t12", "gennorm(beta=0.7)", "mixture(0.9*normal+0.1*normal(std=3))",
    "normal+outliers(rate=0.01,magnitude=20)", "laplace+outliers(rate=0.003,magnitude=30,sign=positive,values=spread)",
)  # fmt: skip
SPECS = {
    "casts": "bf16 f16 tf32 e5m2 e4m3 e3m4 e3m2 e2m3 e2m1 bf16:stochastic bf16:truncate",
    "integers": " ".join(f"int{b}:{g}" for b, g in product(range(2, 9), ("tensor", "channel", "block32"))),
    "bounds, rounding": "int4:block32:absmax:half int4:block32:absmax:full int4:block32:absmax:signed "
    "int8:channel:absmax:half int8:block32:absmax:stochastic int4:block32:absmax:stochastic "
    "int8:block32:absmax:truncate int4:channel:absmax:truncate",
    "stored scales": "int8:block32:absmax:f16 int8:block32:absmax:bf16 int8:block32:absmax:e4m3 "
    "int4:block32:absmax:f16:signed e2m1:block16:absmax:e4m3 nf4:block64:absmax:e5m2",
    "minmax": "int8:tensor:minmax int8:channel:minmax int6:block32:minmax int4:block32:minmax int4:block32:minmax:f16 "
    "int2:block32:minmax",
    "percentiles, rms": "int8:tensor:p99 int4:channel:p99.9 int4:block32:p90 int8:tensor:rms int4:tensor:rms",
    "scaled floats": "e5m2:tensor e4m3:tensor e4m3:channel e4m3:block32 e3m4:block32 e2m1:block32 f16:channel",
    "codebooks": "nf4:block64 af4:block64 fp4:block64 nf4:channel nf4:tensor",
    "MX, NVFP4": "mxfp4 mxfp4:ceil mxfp4:even mxfp4:rceil mxfp6_e2m3 mxfp6_e3m2 mxfp8_e4m3 mxfp8_e4m3:rceil "
    "mxfp8_e5m2 mxint8 nvfp4 nvfp4:single",
    "GGUF": "q4_0 q4_1 q5_0 q5_1 q8_0 tq2_0 mxfp4:gguf nvfp4:gguf",
}
BATCH = 32  # arrays in one call


@dataclass(frozen=True)
class Config:
    seed: int = 0
    shape: tuple[int, int] = (32, 1024)
    arrays: int = 64
    every: int = 1  # of the quantizers

    @classmethod
    def small(cls) -> "Config":
        """Fewer weights, and every eighth quantizer."""
        return cls(shape=(8, 1024), arrays=32, every=8)


def measure(config: Config) -> Iterator[Cell]:
    specs = [(group, s) for group, text in SPECS.items() for s in text.split()][:: config.every]
    for group, spec in specs:
        yield spec, partial(_measured, config, group, spec)


@partial(jax.jit, static_argnums=(0, 1))
def _drawn(name: str, config: Config, keys: PRNGKey) -> Array:
    return lax.map(lambda key: parse(name).sample(key, config.shape), keys)


@partial(jax.jit, static_argnums=0)
def _sums(spec: str, arrays: Array, keys: PRNGKey) -> Array:
    """Sums of w^2 and e^2 of each array, (arrays, 2), shared out to the devices; one program for all populations."""

    def one(pair: tuple[Array, PRNGKey]) -> Array:
        w, key = pair
        return statistics.tally(w, quantizer.parse(spec).roundtrip(w, key=key)).sums[:, 3:5]

    devices, along = jax.local_devices()[: gcd(len(arrays), jax.local_device_count())], PartitionSpec("arrays")
    mesh = jax.make_mesh((len(devices),), ("arrays",), (AxisType.Auto,), devices=devices)
    many = jax.shard_map(partial(lax.map, one), mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
    return many((arrays, keys))


def _measured(config: Config, group: str, spec: str) -> list[dict]:
    rows = []
    for name in POPULATIONS:
        if not theory.has_weight_theory(parse(name), quantizer.parse(spec), config.shape):
            continue
        predicted = theory.weight_rel_mse(parse(name), quantizer.parse(spec), config.shape)
        base, found = population_key(config.seed, f"{name} {spec}"), []
        for first in range(0, config.arrays, BATCH):
            keys = jax.vmap(lambda k: jax.random.fold_in(base, k))(first + jnp.arange(BATCH))  # noqa: B023
            rounding = jax.vmap(lambda k: jax.random.fold_in(k, 0x5EED))(keys)
            found.append(np.asarray(_sums(spec, _drawn(name, config, keys), rounding), np.float64).sum(axis=1))
        mse, se = _mean(np.concatenate(found)[:, 0] / prod(config.shape) / parse(name).moment(2))
        row = {"group": group, "population": name, "spec": spec, "predicted_mse": predicted, "mse": mse, "mse_se": se}
        rows.append(row | {"residual": (mse - predicted) / se, "weights": config.arrays * prod(config.shape)})
    return rows


def _mean(x: np.ndarray) -> tuple[float, float]:
    """Mean over arrays, and its standard error; the power is the population's, whose luck is not the quantizer's."""
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))


def _verdict(rows: Rows) -> dict[str, Any]:
    z = rows.column("residual")
    moments = {"mean": z.mean(), "std": z.std(ddof=1), "beyond2": np.mean(abs(z) > 2), "worst": abs(z).max()}
    # the largest of as many standard normals is below this as often as not
    median = stats.norm.isf((1 - 0.5 ** (1 / len(z))) / 2)
    return moments | {"points": len(z), "median": median, "p": stats.kstest(z, "norm").pvalue}


def summary(rows: Rows) -> str:
    v, worst = _verdict(rows), max(rows, key=lambda r: abs(r["residual"]))
    return (
        f"{v['points']} points: largest |residual| {v['worst']:.2f} standard errors ({worst['spec']} on "
        f"{worst['population']}; its median for as many standard normals is {v['median']:.2f}); mean "
        f"{v['mean']:+.3f}, standard deviation {v['std']:.3f}, {100 * v['beyond2']:.1f} % beyond 2 (4.6 % expected); "
        f"Kolmogorov-Smirnov p = {v['p']:.2f}"
    )


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("aab;aac", height=4.2)
    ax, z = axes["a"], rows.column("residual")
    ends = np.array([min(rows.column("predicted_mse")), max(rows.column("predicted_mse"))])
    plotting.prediction(ax, ends, ends, label="measured = predicted")
    for at, group in enumerate(SPECS):
        if r := rows.where(group=group):
            color = plotting.COLORS[at % 8]
            edge = {"mfc": "w", "mec": color, "mew": 0.8} if at > 7 else {"mec": "w", "mew": 0.4}
            style = {"marker": "osD^vP*XhD"[at], "ms": 3.2, "label": group, "zorder": 3} | edge
            plotting.points(ax, r, "predicted_mse", "mse", series=at, **style)
    ax.set(xscale="log", yscale="log", xlabel="predicted E[e²] / E[w²]", ylabel="measured E[e²] / E[w²]")
    ax.legend(loc="upper left", fontsize=6.5)
    v = _verdict(rows)
    text = f"{v['points']} points\nlargest |residual| {v['worst']:.1f}\nKolmogorov–Smirnov p = {v['p']:.2f}"
    ax.text(0.97, 0.05, text, transform=ax.transAxes, ha="right", fontsize=7.5)
    grid = np.linspace(-4.5, 4.5, 200)
    axes["b"].hist(z, bins=np.arange(-4.5, 4.6, 0.5).tolist(), density=True, color=plotting.COLORS[5], ec="w", lw=0.5)
    plotting.prediction(axes["b"], grid, stats.norm.pdf(grid))
    axes["b"].set(xlabel="residual (standard errors)", ylabel="density", xlim=(-4.5, 4.5))
    normal = stats.norm.ppf((np.arange(len(z)) + 0.5) / len(z))
    plotting.prediction(axes["c"], [-4, 4], [-4, 4])
    axes["c"].plot(normal, np.sort(z), ".", ms=2.5, color=plotting.COLORS[0])
    axes["c"].set(xlabel="standard normal quantile", ylabel="residual (standard errors)", xlim=(-4, 4))
    plotting.letter(axes[k] for k in "abc")
    return fig


CLAIMS = ()
