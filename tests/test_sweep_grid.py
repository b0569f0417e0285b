"""Sweeps of grids: tidy rows, equal to the bit to arrays measured one by one, however they are shared out."""

import itertools
import json
from functools import lru_cache

import jax
import numpy as np
import pytest

import quantsim as qs
from quantsim.measure import statistics, tallies
from quantsim.populations.structure import split_population
from quantsim.sweep import chunks, measure, population_key, programs
from quantsim.sweep.chunks import Cell, Engine, kinds_of, unstacked
from quantsim.sweep.plan import Plan
from quantsim.sweep.programs import chunk_layout, mesh_of
from quantsim.sweep.streams import stream_of
from quantsim.sweep.totals import Totals
from tests.test_traces import counting

POPULATIONS = ["normal(std=0.02)", "normal+outliers(rate=0.05,magnitude=20)"]
SPECS = ["int8:tensor", "int4:block32:absmax:stochastic", "nf4:block64", "q8_0"]
ALL_POPULATIONS, ALL_SPECS = [*POPULATIONS, "normal(std=3)"], [*SPECS, "int4:tensor"]  # two share a program, and two
SHAPES, SEEDS = [(16, 288), (32, 160)], (0, 7)  # two tiles, the second one short
WEIGHTS = 47 * 32 * 160  # 53 arrays of the one shape, 47 of the other: no multiple of the devices


def swept(populations=ALL_POPULATIONS, specs=ALL_SPECS, **axes):
    given = {"seeds": SEEDS, "shapes": SHAPES, "weights": WEIGHTS, "predict": False}
    return qs.sweep(populations, specs, **given | axes)


@pytest.fixture(scope="module", autouse=True)
def rows():
    """The grid; its programs belong to this file, whatever the process has compiled before."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("drawing", "measuring"):
            patch.setattr(programs, name, lru_cache(None)(getattr(programs, name).__wrapped__))
        with counting() as counted:
            found = swept()
        assert counted["compiles"] == found.compiles
        yield found


def arrays_of(shape):
    return -(-WEIGHTS // (shape[0] * shape[1]))


def test_one_row_a_point_in_order(rows):
    points = [(r["population"], tuple(r["shape"]), r["seed"], r["spec"]) for r in rows]
    grid = itertools.product(ALL_POPULATIONS, SHAPES, SEEDS, ALL_SPECS)
    assert points == list(grid)
    assert len(points) == Plan.of(ALL_POPULATIONS, ALL_SPECS, seeds=SEEDS, shapes=SHAPES).points


def test_rows_are_tidy(rows):
    metrics = statistics.init().result().keys()
    for row in rows:
        assert list(row) == ["population", "shape", "seed", "spec", "bits_per_weight", *metrics]
        assert row["count"] == arrays_of(row["shape"]) * np.prod(row["shape"])
        assert row["bits_per_weight"] == qs.parse(row["spec"]).bits_per_weight(tuple(row["shape"]))
    assert [json.loads(line) for line in map(json.dumps, rows)] == rows
    assert rows.seconds > 0


def test_predictions_are_a_column_of_their_own(rows):
    found = swept(POPULATIONS[:1], seeds=SEEDS[0], shapes=SHAPES[:1], predict=True)
    for row, plain in zip(found, rows, strict=False):
        assert row == plain | {"predicted_sqnr_db": row["predicted_sqnr_db"]}
        expected = qs.theory.weight_rel_mse(qs.populations.parse(POPULATIONS[0]), qs.parse(row["spec"]), SHAPES[0])
        assert row["predicted_sqnr_db"] == -10 * np.log10(expected)


def test_rows_equal_measure(rows):
    quantizers = [qs.parse(s) for s in ALL_SPECS]
    for shape in SHAPES:
        pop = qs.populations.parse(POPULATIONS[1])
        stats = measure(pop, quantizers, shape=shape, arrays=arrays_of(shape), seed=7)
        for spec, s in zip(ALL_SPECS, stats, strict=True):
            (row,) = rows.where(population=POPULATIONS[1], shape=list(shape), seed=7, spec=spec)
            assert s.result() == {name: row[name] for name in s.result()}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("population", POPULATIONS)
def test_rows_equal_brute_force(rows, population, spec):
    """Draw, quantize, subtract, one array after the other."""
    pop, q, shape, stats = qs.populations.parse(population), qs.parse(spec), SHAPES[0], statistics.init()
    for k in range(arrays_of(shape)):
        own = jax.random.fold_in(population_key(7, population), k)
        w = pop.sample(own, shape)
        w_hat = q.roundtrip(w, key=jax.random.fold_in(own, 0x5EED))
        stats = statistics.fold(stats, tallies.tally(w, w_hat), "array")
    (row,) = rows.where(population=population, shape=list(shape), seed=7, spec=spec)
    assert stats.result() == {name: row[name] for name in stats.result()}


@pytest.mark.parametrize("devices", [1, 3])
def test_rows_are_the_same_bits_on_any_number_of_devices(rows, devices, monkeypatch):
    some = jax.devices()[:devices]
    assert len(jax.devices()) == 4  # those of ``rows``
    shape, specs = SHAPES[devices % 2], ["int8:tensor", "int4:tensor", "int4:block32:absmax:stochastic"]
    found = swept(POPULATIONS[1], specs, shapes=[shape], mesh=mesh_of(some))
    for row in found:
        assert [row] == rows.where(**{name: row[name] for name in ("population", "shape", "seed", "spec")})
    assert len(found) == 2 * len(specs)
    monkeypatch.setattr(jax, "local_devices", lambda: some)
    measured = measure(POPULATIONS[1], specs, shape=shape, arrays=arrays_of(shape), seed=7)
    for row, s in zip(found.where(seed=7), measured, strict=True):
        assert s.result() == {name: row[name] for name in s.result()}


def test_totals_are_the_same_bits_for_any_size_of_a_chunk(monkeypatch):
    """One array at a time, and all at once, by any number of threads, and by the four devices of this process."""
    cell, totals = Cell(qs.populations.parse(POPULATIONS[0]), (32, 160), 7, 47), set()
    for threads, size, expected in ((0, 32 * 160, 12), (0, None, 1), (1, 32 * 160, 47), (3, None, 3), (50, None, 47)):
        monkeypatch.setattr(chunks, "cores", lambda threads=threads: threads)
        engine = Engine([qs.parse(SPECS[1])], mesh_of(jax.devices()), size)
        parts, total = list(engine.chunks([(cell, 0)])), Totals.of(1)
        for array in (a for _, *part in parts for a in unstacked(*part)):
            total.add(*array)
        assert len(parts) == expected
        totals.add(json.dumps(total.plain()))
    assert len(totals) == 1


def test_rows_do_not_depend_on_the_rest_of_the_grid(rows):
    for population, spec in ((POPULATIONS[1], SPECS[1]), (POPULATIONS[0], SPECS[3])):
        alone = swept(population, spec, seeds=7, shapes=SHAPES[1:])
        assert alone == rows.where(population=population, spec=spec, seed=7, shape=list(SHAPES[1]))
    others = swept(
        ["laplace", *ALL_POPULATIONS[::-1]], ["int2:block32", *ALL_SPECS[::-1]], seeds=(3, 7), shapes=SHAPES[1:]
    )
    for row in rows.where(seed=7, shape=list(SHAPES[1])):
        point = {k: row[k] for k in ("population", "shape", "seed", "spec")}
        assert others.where(**point) == [row]


def test_quantizers_see_the_same_arrays(rows):
    """Common random numbers: also where one of them rounds at random."""
    for population in POPULATIONS:
        same = rows.where(population=population, seed=0, shape=[16, 288])
        signal = {(r["mse"] / r["rel_rms"] ** 2).hex()[:12] for r in same}
        assert len(signal) == 1


def test_progress_is_reported_after_every_chunk(monkeypatch):
    monkeypatch.setattr(chunks, "cores", lambda: 1)
    seen = []
    swept(seeds=0, report=lambda *what: seen.append(what))
    plan = Plan.of(ALL_POPULATIONS, ALL_SPECS, seeds=0, shapes=SHAPES, weights=WEIGHTS)
    assert [name for *_, name in seen] == [str(c) for c in plan.cells()]
    assert [total for _, total, _ in seen] == [plan.drawn] * 6
    drawn = np.cumsum([c.arrays * np.prod(c.shape) for c in plan.cells()])
    assert [now for now, *_ in seen] == drawn.tolist()


# --- programs -------------------------------------------------------------------------------------------------------

#: Grids that vary one traced parameter.
TRACED = {
    "bits": (["normal"], [f"int{b}:block32" for b in range(2, 9)]),
    "bits of codes with a zero point": (["normal"], [f"int{b}:channel:minmax" for b in range(2, 9)]),
    "exponents": (["normal"], [f"{f}:block32" for f in ("e2m1", "e2m3", "e3m2", "e3m4", "e4m3", "e5m2", "f16")]),
    "exponents of casts": (["normal"], ["e2m1", "e4m3", "f16"]),
    "clip ratios": (["normal"], [f"int4:block32:clip{r}" for r in (0.25, 0.5, 0.9, 1)]),
    "scale formats": (["normal"], [f"int4:block32:absmax:{f}" for f in ("f16", "e4m3", "e5m2")]),
    "bits, clip ratios and scale formats": (
        ["normal"], [f"int{b}:block32:clip{r}:{f}" for b in (3, 6) for r in (0.5, 0.75) for f in ("f16", "e5m2")],
    ),
    "bits of stochastic rounding": (["normal"], [f"int{b}:block32:absmax:stochastic" for b in (3, 4, 8)]),
    "rates": ([f"normal+outliers(rate={r},magnitude=20)" for r in (0.001, 0.01, 0.1)], ["int8:tensor"]),
    "magnitudes": ([f"laplace+outliers(rate=0.01,magnitude={m})" for m in (5, 20, 100)], ["int8:tensor"]),
    "df": ([f"t{df}" for df in (2.5, 5, 30)], ["int8:tensor"]),
    "std": ([f"uniform(std={s})" for s in (0.02, 1, 3)], ["int8:tensor"]),
    "std of components": ([f"mixture(0.9*normal+0.1*laplace(std={s}))" for s in (2, 3)], ["int8:tensor"]),
    "beta": ([f"gennorm(beta={b})" for b in (0.8, 1.5)], ["int8:tensor"]),
}  # fmt: skip


def programs_of(plan):
    return Engine(plan.quantizers, mesh_of(jax.devices())).programs(plan.cells())


@pytest.mark.parametrize("name", TRACED)
def test_one_program_draws_and_one_measures_all_values_of_a_traced_parameter(name):
    """Compiled are the programs that an engine names, and a rebuilt quantizer or population is the same to the bit."""
    populations, specs = TRACED[name]
    plan = Plan.of(populations, specs, seeds=(1, 2, 3), shapes=[(3, 64)], weights=5000)
    assert len(programs_of(plan)) == 2


def test_programs_of_traced_parameters_compile_once():
    """All populations of two traced parameters, and all quantizers of four."""
    populations = [p for name in ("rates", "magnitudes") for p in TRACED[name][0]]
    specs = [s for name in ("exponents", "bits, clip ratios and scale formats") for s in TRACED[name][1]]
    axes = {"seeds": (1, 2), "shapes": [(3, 64)], "weights": 5000}
    assert len(programs_of(Plan.of(populations, specs, **axes))) == 4
    with counting() as counted:
        found = swept(populations, specs, **axes)
    assert (counted["compiles"], found.compiles) == (4, 4)
    assert len({r["mse"] for r in found}) == len(found) == 2 * len(populations) * len(specs)
    with counting() as again:
        assert swept(populations, specs, **axes) == found
    assert again["compiles"] == 0


def test_compiles_are_the_programs_of_the_cells(rows):
    plan = Plan.of(ALL_POPULATIONS, ALL_SPECS, seeds=SEEDS, shapes=SHAPES, weights=WEIGHTS)
    assert rows.compiles == len(programs_of(plan)) == len(SHAPES) * (2 + 4)  # each shared once


def _temporary(program, *arguments):
    return program.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_no_temporary_is_as_large_as_the_population():
    """What a program of ``rows`` needs beside arguments and results is at most 8 arrays, of the 12 on a device."""
    shape = SHAPES[1]
    layout = chunk_layout(shape, arrays_of(shape), mesh_of(jax.devices()))
    few = 8 * 4 * shape[0] * shape[1]
    assert layout.per_device == 12
    shared = stream_of(0, "normal"), np.uint32(0), None
    for text in POPULATIONS:
        structure, numbers = split_population(qs.populations.parse(text))
        assert _temporary(programs.drawing(structure, layout), np.float32(numbers), *shared) <= few
    for kind in kinds_of([qs.parse(s) for s in ALL_SPECS]):
        measuring = programs.measuring(kind.structure, layout)
        assert _temporary(measuring, kind.numbers, *shared, programs.arrays_of(layout)) <= few
