"""Plans of sweeps: what is refused before anything is measured, and files of configurations; rows as a data frame."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.populations import Normal
from quantsim.rows import Rows
from quantsim.sweep import measure, parts
from quantsim.sweep.config import ConfigError, load
from quantsim.sweep.plan import Plan
from tests.fake_study import command
from tests.test_traces import counting


def test_defaults():
    plan = Plan.of("normal", "int8:tensor")
    assert plan == Plan((Normal(),), (qs.parse("int8:tensor"),), (0,), ((256, 1024),), 10**7, True)
    (cell,) = plan.cells()
    assert (cell.arrays, plan.points, plan.drawn) == (39, 1, 39 * 256 * 1024)  # 10^7 rounded up to whole arrays


def test_specs_objects_and_single_values_are_one():
    texts = Plan.of(["normal(std=2)"], ["int8:tensor"], seeds=[3], shapes=[[4, 8]], weights=64.0)
    objects = Plan.of(Normal(2.0), qs.parse("int8:tensor"), seeds=3, shapes=iter([(4, 8)]), weights=64)
    assert texts == objects
    assert texts.plain() == objects.plain()


NUMBERS = {
    "a NumPy integer": np.int64(64),
    "a small NumPy integer": np.uint8(64),
    "a NumPy float": np.float32(64),
    "an array of one number": np.array(64),
    "a JAX integer": jnp.int32(64),
    "a float": 64.0,
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_whole_numbers_of_every_kind_are_one(kind):
    plain = Plan.of("normal", "int8:tensor", seeds=64, shapes=[(4, 64)], weights=64)
    given = NUMBERS[kind]
    found = Plan.of("normal", "int8:tensor", seeds=given, shapes=[(4, given)], weights=given)
    assert (found, found.plain()) == (plain, plain.plain())
    assert {type(v) for v in (*found.seeds, *found.shapes[0], found.weights)} == {int}


@pytest.mark.parametrize(
    "seeds", [np.arange(3), jnp.arange(3), range(3), (0, 1, 2), iter([0, np.int8(1), 2.0])], ids=type
)
def test_seeds_of_every_kind_are_one(seeds):
    assert Plan.of("normal", "int8:tensor", seeds=seeds).seeds == (0, 1, 2)


@pytest.mark.parametrize("predict", [True, np.bool_(True), np.array(True)], ids=type)
def test_truth_values_of_every_kind_are_one(predict):
    assert Plan.of("normal", "int8:tensor", predict=predict).predict is True


def test_cells_are_populations_then_shapes_then_seeds():
    plan = Plan.of(["normal", "laplace"], ["bf16", "f16"], seeds=range(2), shapes=[(4,), (2, 3)], weights=9)
    assert [str(c) for c in plan.cells()] == [
        f"{p}, {s}, seed {k}" for p in ("normal", "laplace") for s in ("4", "2x3") for k in (0, 1)
    ]
    assert [c.arrays for c in plan.cells()] == [3, 3, 2, 2] * 2
    assert plan.points == 16


REFUSED = [
    ({"populations": []}, "needs at least one of populations"),
    ({"quantizers": []}, "needs at least one of quantizers"),
    ({"seeds": []}, "needs at least one of seeds"),
    ({"shapes": []}, "needs at least one of shapes"),
    ({"populations": ["normal", "laplace", "normal(std=1)"]}, "populations of a sweep are there twice: normal"),
    ({"quantizers": ["int4:block32", "int4:block32:absmax"]}, "quantizers of a sweep are there twice: int4:block32"),
    ({"seeds": [1, 2, 1]}, "seeds of a sweep are there twice: 1"),
    ({"shapes": [(4, 8), (4, 8)]}, "shapes of a sweep are there twice"),
    ({"weights": 0}, "at least one weight a point, got 0"),
    ({"weights": -3}, "at least one weight a point, got -3"),
    ({"weights": 2.5}, r"number of weights of a sweep is a whole number, not 2\.5"),
    ({"weights": True}, "number of weights of a sweep is a whole number, not True"),
    ({"weights": "many"}, "number of weights of a sweep is a whole number, not 'many'"),
    ({"weights": float("inf")}, "number of weights of a sweep is a whole number, not inf"),
    ({"weights": np.float32("nan")}, "number of weights of a sweep is a whole number, not .*nan"),
    ({"weights": np.arange(2)}, "number of weights of a sweep is a whole number, not array"),
    ({"seeds": [np.bool_(True)]}, "seed of a sweep is a whole number, not .*True"),
    ({"predict": 1}, "predict of a sweep is true or false, not 1"),
    ({"seeds": [0.5]}, r"seed of a sweep is a whole number, not 0\.5"),
    ({"shapes": [(4, 8.5)]}, r"size of a sweep is a whole number, not 8\.5"),
    ({"shapes": [(4, 0)]}, r"sizes of at least 1, got \(4, 0\)"),
    ({"shapes": [()]}, r"sizes of at least 1, got \(\)"),
    ({"quantizers": ["q4_k"], "shapes": [(4, 100)]}, "256"),
    ({"populations": ["norml"]}, "did you mean 'normal'"),
    ({"quantizers": ["int8:blok32"]}, "did you mean 'int8:block32'"),
    ({"rates": [0.1]}, "a sweep has no rates; it takes seeds, shapes, weights, predict"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_cannot_be_measured_is_refused_first(change, message, tmp_path):
    given = {"populations": ["normal"], "quantizers": ["int8:tensor"], "shapes": [(4, 8)], "weights": 64}
    with pytest.raises(ValueError, match=message):
        qs.sweep(**given | change, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_no_32_bit_number_is_refused_first(seed, tmp_path):
    with pytest.raises(ValueError, match=rf"between 0 and 2\^32 - 1, got {seed}"):
        qs.sweep("normal", "int8:tensor", seeds=[0, seed], shapes=[(4, 8)], weights=64, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


KINDS = [
    ({"populations": 3}, "a sweep wants a population or its spec, or several, not 3"),
    ({"populations": [3]}, "a population or its spec is wanted, for example 'normal', not 3"),
    ({"populations": [qs.parse("bf16")]}, "a population or its spec is wanted"),
    ({"quantizers": None}, "a sweep wants a quantizer or its spec, or several, not None"),
    ({"seeds": None}, "a sweep wants a seed, or several, not None"),
    ({"shapes": 4}, "a sweep wants a shape, or several, not 4"),
    ({"shapes": (4, 8)}, r"a shape of a sweep is several sizes, for example \(256, 1024\), not 4"),
]


@pytest.mark.parametrize(("change", "message"), KINDS, ids=[m for _, m in KINDS])
def test_wrong_kinds_of_arguments_are_refused_with_words(change, message):
    with pytest.raises(TypeError, match=message):
        Plan.of(**{"populations": "normal", "quantizers": "int8:tensor"} | change)


REFUSED_BY_MEASURE = [
    ({"arrays": 0}, ValueError, "at least one array"),
    ({"arrays": 1.5}, ValueError, "number of arrays of a sweep is a whole number"),
    ({"seed": 2**32}, ValueError, r"between 0 and 2\^32 - 1"),
    ({"quantizers": []}, ValueError, "at least one quantizer"),
    ({"quantizers": "q4_k"}, ValueError, "256"),
    ({"shape": (0, 8)}, ValueError, "sizes of at least 1"),
    ({"shape": (4, 8.5)}, ValueError, "size of a sweep is a whole number"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED_BY_MEASURE, ids=[m for *_, m in REFUSED_BY_MEASURE])
def test_what_measure_cannot_measure_is_refused_first(change, error, message):
    given = {"pop": "normal", "quantizers": "int8:tensor", "shape": (4, 8), "arrays": 3, "seed": 0}
    with counting() as counted, pytest.raises(error, match=message):
        unchecked(measure)(**given | change)
    assert counted["compiles"] == 0


def unchecked(function):
    """Without the check of annotations that the tests add."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


# --- files ----------------------------------------------------------------------------------------------------------

EXAMPLE = """
populations = ["normal", "normal+outliers(rate={rate},magnitude={magnitude})"]
quantizers = ["int{bits}:block32", "int{bits}:channel", "nf4:block64"]
seeds = [0, 1]
shapes = [[64, 256]]
weights = 1e6
predict = false

[axes]
bits = [4, 8]
rate = [0.001, 0.01]
magnitude = [10, 100.5]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "grid.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_a_file_with_axes_is_the_grid_written_out(written):
    outliers = [f"normal+outliers(rate={r},magnitude={m})" for r in (0.001, 0.01) for m in (10, 100.5)]
    specs = ["int4:block32", "int8:block32", "int4:channel", "int8:channel", "nf4:block64"]
    assert load(written(EXAMPLE)) == Plan.of(
        ["normal", *outliers], specs, seeds=[0, 1], shapes=[(64, 256)], weights=10**6, predict=False
    )


def test_a_file_with_one_of_each(written):
    one = 'populations = "t5"\nquantizers = "bf16"\nseeds = 3\n'
    assert load(written(one)) == Plan.of("t5", "bf16", seeds=3)


def test_a_file_without_axes(written):
    assert load(written('populations = ["t5"]\nquantizers = ["bf16"]\n')) == Plan.of("t5", "bf16")


GRID = 'populations = ["normal"]\nquantizers = ["int8:tensor"]\n'
BAD_FILES = {
    "unknown key": (GRID + "seed = 3\n", r"grid\.toml: unknown key 'seed'; known are populations, quantizers, seeds"),
    "an axis that nothing mentions": (GRID + "[axes]\nbits = [4]\n", "mentions the axis {bits}"),
    "no TOML": ("populations = [normal]\n", r"cannot read .*grid\.toml as the configuration of a sweep: .*line 1"),
    "no text": (b"\xff\xfe\x00", r"cannot read .*grid\.toml as the configuration of a sweep"),
    "no populations": ('quantizers = ["int8:tensor"]\n', r"grid\.toml: .*at least one of populations"),
    "an axis without values": (
        'populations = ["normal"]\nquantizers = ["int{b}:tensor"]\n[axes]\nb = []\n', "at least one of quantizers",
    ),
    "an axis that is not defined": ('populations = ["normal"]\nquantizers = ["int{b}:tensor"]\n', r"int\{b\}"),
    "a spec that is none": ('populations = ["normal"]\nquantizers = ["int8:blok32"]\n', "did you mean 'int8:block32'"),
    "a number for a list": ('populations = ["normal"]\nquantizers = 8\n', r"grid\.toml: "),
    "a number in a list": ('populations = ["normal"]\nquantizers = [8]\n', r"grid\.toml: "),
    "shapes without sizes": (GRID + "shapes = [4]\n", r"grid\.toml: "),
    "axes that are no table": (GRID + "axes = 3\n", r"grid\.toml: "),
    "an axis that is one value": (
        'populations = ["normal"]\nquantizers = ["int{b}:tensor"]\n[axes]\nb = 4\n', r"grid\.toml: ",
    ),
    "a seed out of range": (GRID + "seeds = [-1]\n", r"grid\.toml: .*between 0 and 2\^32 - 1, got -1"),
    "predict that is no truth value": (GRID + 'predict = "no"\n', r"grid\.toml: .*predict"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_describes_no_sweep(name, written):
    text, message = BAD_FILES[name]
    with pytest.raises(ConfigError, match=message):
        load(written(text))


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml .*: No such file"):
        load(tmp_path / "absent.toml")


def test_a_bad_file_ends_the_command_with_3(capsys, written, tmp_path):
    for path in (written(BAD_FILES["unknown key"][0]), tmp_path / "absent.toml"):
        code, shown, message = command(capsys)("sweep", path, "--out", tmp_path / "out")
        assert (code, shown) == (3, "")
        assert message.startswith("quantsim: ")
        assert str(path) in message
    assert not (tmp_path / "out").exists()


#: One program draws and one measures in the tests of the command.
SMALL = """populations = ["normal", "normal(std=2)"]
quantizers = ["int8:tensor", "int4:tensor"]
shapes = [[8, 40]]
weights = 640
predict = false
"""


def test_results_go_into_a_folder_of_the_files_name(capsys, monkeypatch, tmp_path):
    """A second configuration does not meet the results of the first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "self_test", lambda: "the same draws")
    folders = {"first.toml": "first", "second.v2.toml": "second.v2", "third": "third-results"}
    for seed, name in enumerate(folders):
        (tmp_path / name).write_text(f"seeds = {seed}\n{SMALL}")
        code, _, message = command(capsys)("sweep", name)
        assert code == 0, message
    assert {p.parent.name for p in tmp_path.rglob("table.csv")} == set(folders.values())


def test_dry_run_says_what_would_be_and_writes_nothing(capsys, written, tmp_path):
    path = written(f"seeds = [0, 1]\n{SMALL}")
    code, shown, message = command(capsys)("sweep", path, "--out", tmp_path / "out", "--dry-run")
    assert (code, message) == (0, "")
    assert "4 cells, 8 points, 2560 weights drawn, on 4 x cpu" in shown
    assert "2 programs" in shown
    assert not (tmp_path / "out").exists()


# --- data frames ----------------------------------------------------------------------------------------------------


def test_without_pandas_a_data_frame_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="a data frame needs pandas: pip install pandas"):
        Rows([{"a": 1}]).to_pandas()


def test_a_data_frame_is_made_of_the_rows(monkeypatch):
    class Pandas:
        DataFrame = staticmethod(lambda rows: ("frame of", rows))

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    rows = Rows([{"a": 1}, {"a": 2}])
    assert rows.to_pandas() == ("frame of", [{"a": 1}, {"a": 2}])
