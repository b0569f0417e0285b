"""GPTQ against explicit Schur complements in float64, and where it must be rounding to nearest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.mitigations import Layer, gptq, parse
from quantsim.mitigations.compensation import Plan, rounded_in_turn
from quantsim.mitigations.gptq import SCALES
from quantsim.mitigations.hessian import damped, errs_more, hessian, links
from quantsim.quantizer.structure import parted

OUT, FAN_IN, TOKENS = 24, 64, 256
HALF_ULP = 2.0**-24
#: One of each kind: granularities, calibrations, scale formats, elements.
SPECS = [
    "int4:block32",
    "int3:tensor",
    "int4:channel:clip0.8",
    "int4:block32:minmax",
    "int4:block32:mse",
    "nf4:block16:absmax:f16",
    "e2m1:block16:absmax:e4m3",
    "int4:block32:absmax:signed",
    "int4:block24",
    "e4m3",
]


def problem(condition=30.0, seed=0):
    """Normal weights, and inputs whose Hessian has eigenvalues evenly spread in the logarithm."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((FAN_IN, FAN_IN)))[0]
    orthogonal = np.linalg.qr(rng.standard_normal((TOKENS, FAN_IN)))[0] * np.sqrt(TOKENS)
    x = orthogonal * np.sqrt(np.geomspace(1, 1 / condition, FAN_IN)) @ basis
    return np.float32(rng.standard_normal((OUT, FAN_IN))), np.float32(x)


def by_schur_complements(w, w_hat, h, order):
    """The weights of each column just before it is rounded, when ``w_hat`` is what was rounded before.

    With errors d_j of the columns done, the others are at the minimum of dᵀ H d: d_F = -H_FF⁻¹ H_FD d_D. Each column is
    solved for anew from the original weights, in float64: no recursion, no Cholesky factor, no inverse.
    """
    before = np.float64(w)
    for k in range(1, len(order)):
        done, free = order[:k], order[k:]
        shift = -np.linalg.solve(h[np.ix_(free, free)], h[np.ix_(free, done)] @ np.float64(w_hat - w)[:, done].T)
        before[:, order[k]] = w[:, order[k]] + shift[0]
    return before


def rounding_bound(w, before, w_hat, h, order):
    """What float32 may be off by, before each column.

    A weight goes through a product and a sum for each column in front, half an ulp each, and the links are rounded,
    too. What weights are off by, in the order of rounding, is handed on by the links L: off = fresh (I + L)⁻¹.
    """
    link = np.float64(links(h[np.ix_(order, order)]))
    moved = np.abs(np.float64(before - w_hat))[:, order] @ np.abs(link)
    fresh = (len(order) + 4) * HALF_ULP * (np.abs(w[:, order]) + moved)
    bound = np.empty_like(moved)
    bound[:, order] = fresh @ np.abs(np.linalg.inv(np.eye(len(order)) + link))
    return bound


# --- against the definition -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [30.0, 1e6])
@pytest.mark.parametrize("ordering", ["none", "activation"])
@pytest.mark.parametrize("spec", ["int4:channel", "int4:block32"])
def test_it_is_what_schur_complements_give(spec, ordering, condition):
    """Each code is the nearest to what float64 says stood there; scales are static, so that they are known apart."""
    w, x = problem(condition)
    found = gptq(Layer(w, x), spec, ordering=ordering, scales="static", damping=0.0, lazy=32)
    w_hat, h = np.asarray(found.weights), np.float64(x).T @ np.float64(x) / TOKENS
    order = np.argsort(-np.diag(h), kind="stable") if ordering == "activation" else np.arange(FAN_IN)
    before = by_schur_complements(w, w_hat, h, order)
    off = rounding_bound(w, before, w_hat, h, order)
    scale = np.repeat(
        np.abs(w).reshape(OUT, -1, 32 if "block" in spec else FAN_IN).max(-1) / 7, 64 if "ch" in spec else 32, 1
    )
    inside = np.clip(before, -7 * scale, 7 * scale)
    assert (np.abs(w_hat - inside) <= scale / 2 * (1 + 4 * HALF_ULP) + off).all()
    assert np.median(off / scale) < 1e-3  # the bound says something
    assert (np.abs(np.abs(w_hat - w) / scale) > 0.5 + 1e-3).mean() > 0.1  # and compensation did
    least, most = ((np.abs(before) > 7.5 * scale + side * off).sum() for side in (1, -1))
    assert least <= int(found.found["saturated"]) <= most


@pytest.mark.parametrize("condition", [30.0, 1e6])
def test_links_are_those_of_the_inverse(condition):
    """Row j of the links is -H_FF⁻¹ H_Fj turned around: the best answer of the columns behind to an error in j.

    A solution is off by the condition times a rounding of float64, and the link by one of float32.
    """
    h = hessian(problem(condition)[1])
    found = links(h)
    for j in (0, 17, FAN_IN - 2):
        best = np.linalg.solve(h[j + 1 :, j + 1 :], h[j + 1 :, j])
        assert np.abs(found[j, j + 1 :] + best).max() <= np.abs(best).max() * (HALF_ULP + FAN_IN * condition * 2.0**-52)
        assert (found[j, : j + 1] == 0).all()


@pytest.mark.parametrize("spec", ["int4:block16", "e4m3"])
def test_lazy_blocks_change_roundings_only(spec):
    """Handed on a few columns at a time or all at once: rows in which no tie is in doubt agree to float32.

    A weight in doubt is one in 10^5: sums of 64 terms, 1e-5 of a step.
    """
    w, x = problem()
    once, often = (np.asarray(gptq(Layer(w, x), spec, lazy=n).weights) for n in (FAN_IN, 1))
    same = np.isclose(once, often, rtol=1e-4, atol=0).all(axis=1)
    assert same.sum() >= OUT - 2


# --- the three conventions of scales --------------------------------------------------------------------------------


def test_scales_are_found_when_they_are_said_to_be():
    """The scale of the second block of 16 in a lazy block of 32: of the weights by Schur complements, or of the old."""
    w, x = problem()
    h = np.float64(x).T @ np.float64(x) / TOKENS
    h = h + 0.01 * np.diag(h).mean() * np.eye(FAN_IN)
    for scales in SCALES:
        w_hat = np.float64(gptq(Layer(w, x), "int4:block16", scales=scales, lazy=32).weights)
        done = {"group": 48, "block": 32, "static": 0}[scales]  # columns whose errors are known to the last block
        free, fixed = np.arange(done, FAN_IN), np.arange(done)
        shift = -np.linalg.solve(h[np.ix_(free, free)], h[np.ix_(free, fixed)] @ (w_hat - w)[:, :done].T).T
        expected = np.abs((w[:, done:] + shift)[:, 48 - done :]).max(1) / 7
        steps = w_hat[:, 48:] / expected[:, None]
        # float32 sums of at most 64 terms, far from ill-conditioned: 1e-5 is 80 of their half ulps
        np.testing.assert_allclose(steps, np.round(steps), atol=7e-5, err_msg=scales)


def test_conventions_are_one_where_they_must_be():
    w, x = problem()
    for spec, lazy in (("int4:channel", 16), ("int4:tensor", 16)):
        first, *others = (np.asarray(gptq(Layer(w, x), spec, scales=s, lazy=lazy).weights) for s in SCALES)
        assert all((first == o).all() for o in others)
    # a lazy block that is one block has nothing pending when the block begins; one that is everything has all of it
    same = [np.asarray(gptq(Layer(w, x), "int4:block16", scales=s, lazy=16).weights) for s in ("group", "block")]
    assert (same[0] == same[1]).all()
    stale = [np.asarray(gptq(Layer(w, x), "int4:block16", scales=s, lazy=64).weights) for s in ("static", "block")]
    assert (stale[0] == stale[1]).all()


# --- where it is rounding to nearest --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_without_links_it_is_rounding_to_nearest_to_the_byte(spec):
    w, _ = problem()
    q = qs.parse(spec)
    order = np.random.default_rng(0).permutation(FAN_IN).astype(np.int32)
    off = rounded_in_turn(
        *parted(q), jnp.asarray(w), jnp.zeros((FAN_IN, FAN_IN)), jnp.asarray(order), Plan(FAN_IN, FAN_IN, "static")
    )
    assert np.asarray(off.weights).tobytes() == np.asarray(q.roundtrip(w)).tobytes()
    assert int(off.saturated) == int(q.clipped(w).sum())


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("spec", SPECS)
def test_identity_hessian_is_rounding_to_nearest(spec, scales):
    w, _ = problem()
    found = gptq(Layer(w, np.eye(FAN_IN, dtype=np.float32) * 3), spec, scales=scales)
    assert np.asarray(found.weights).tobytes() == np.asarray(qs.parse(spec).roundtrip(w)).tobytes()


def test_dead_columns_are_those_of_zeros_exactly():
    """A dead column is rounded to nearest, and the others do what they would do without it; 1e-18 is not dead."""
    w, x = problem()
    x[:, [5, 40]] = 0
    alive = np.setdiff1d(np.arange(FAN_IN), [5, 40])
    q = qs.parse("int4:tensor")
    w[0, 0] = 9  # the scale is that of a weight that is alive
    found = gptq(Layer(w, x), q)
    without = gptq(Layer(w[:, alive], x[:, alive]), q)
    assert int(found.found["dead"]) == 2
    np.testing.assert_array_equal(found.weights[:, [5, 40]], q.roundtrip(w)[:, [5, 40]])
    assert (np.asarray(found.weights)[:, alive] == np.asarray(without.weights)).mean() > 0.99  # but for ties
    x[0, 5] = 1e-18
    assert int(gptq(Layer(w, x), q).found["dead"]) == 1
    assert gptq(Layer(w, x * 0), q).weights.tobytes() == q.roundtrip(w).tobytes()


# --- what it is for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", ["none", "activation"])
@pytest.mark.parametrize("spec", SPECS[::2])
def test_output_errors_are_not_larger_and_weight_errors_not_smaller(spec, ordering):
    nearest = qs.parse(spec).roundtrip
    for condition, seed in ((1.0, 1), (30.0, 2), (1e4, 3)):
        w, x = problem(condition, seed)
        for scales in SCALES:
            found = gptq(Layer(w, x), spec, ordering=ordering, scales=scales)
            w_hat = np.asarray(found.weights)
            ours, theirs = (
                np.linalg.norm(np.float64(v - w) @ np.float64(x).T) for v in (w_hat, np.asarray(nearest(w)))
            )
            assert ours <= theirs * (1 + 1e-6), (condition, scales)
            if condition == 1e4:
                assert not found.found["nearest"]
                assert ours < 0.8 * theirs
                assert np.linalg.norm(w_hat - w) > np.linalg.norm(np.asarray(nearest(w)) - w)


def test_nearest_is_kept_where_it_errs_less():
    """Orthogonal inputs of sizes that differ a little: nothing to compensate, and blocks of other columns.

    Which of the two is kept is what float64 says of both; what is kept is charged as what it is.
    """
    kept = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        w = np.float32(rng.standard_normal((1, FAN_IN)))
        x = np.diag(np.float32(rng.uniform(1, 2, FAN_IN)))
        found = gptq(Layer(w, x), "int4:block16", ordering="activation")
        q = qs.parse("int4:block16")
        order = np.argsort(-np.diag(x), kind="stable")
        ordered = np.empty_like(w)
        ordered[:, order] = q.roundtrip(w[:, order])  # no links: what the loop does is rounding in blocks of that order
        losses = [(((v - w) * np.diag(x)) ** 2).sum() for v in (ordered, np.asarray(q.roundtrip(w)))]
        kept.append(bool(found.found["nearest"]))
        assert kept[-1] == (losses[1] < losses[0])
        np.testing.assert_array_equal(found.weights, q.roundtrip(w) if kept[-1] else ordered)
        assert float(found.extra_bits) == (0 if kept[-1] else 2 * FAN_IN)
        assert int(found.found["saturated"]) == 0
    assert 0 < sum(kept) < len(kept)


def test_under_a_transformation_it_says_that_it_computes_on_the_host():
    with pytest.raises(TypeError, match="on the host in float64, not inside jit"):
        jax.jit(lambda layer: gptq(layer, "int4:channel"))(Layer(*problem()))


def test_blocks_in_the_order_of_activations_are_charged_their_indices():
    w, x = problem()
    bits = {s: float(gptq(Layer(w, x), "int4:block16", ordering="activation", scales=s).extra_bits) for s in SCALES}
    assert bits == {"group": 2 * FAN_IN, "block": 2 * FAN_IN, "static": 0}
    assert float(gptq(Layer(w, x), "int4:block16").extra_bits) == 0
    assert gptq(Layer(w, x), "int4:block16", ordering="activation").bits_per_weight("int4:block16") == 6 + 2 / OUT


def equations(jaxpr):
    """How many there are, with those of what is called, mapped or looped over."""
    inner = [j for e in jaxpr.eqns for v in e.params.values() for j in (v if isinstance(v, tuple) else (v,))]
    return len(jaxpr.eqns) + sum(
        equations(getattr(j, "jaxpr", j)) for j in inner if hasattr(j, "eqns") or hasattr(j, "jaxpr")
    )


def test_the_program_does_not_grow_with_the_matrix():
    structure, numbers = parted(qs.parse("int4:block16"))

    def size(out, fan_in):
        shapes = (((out, fan_in), "f4"), ((fan_in, fan_in), "f4"), ((fan_in,), "i4"))
        arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        program = jax.make_jaxpr(rounded_in_turn, static_argnums=(0, 5))
        return equations(program(structure, numbers, *arrays, Plan(16, 32, "group")).jaxpr)

    assert 50 < size(8, 64) == size(32, 1024)


# --- what may be given ------------------------------------------------------------------------------------------------


def test_a_singular_hessian_needs_damping():
    w, x = problem()
    for singular in (x[:32], np.repeat(x[:, ::2], 2, axis=1)):
        with pytest.raises(ValueError, match=r"singular.*damping above 0"):
            gptq(Layer(w, singular), "int4:channel", damping=0.0)
        w_hat = np.asarray(gptq(Layer(w, singular), "int4:channel").weights)
        errors = [
            np.linalg.norm(np.float64(v - w) @ singular.T)
            for v in (w_hat, np.asarray(qs.parse("int4:channel").roundtrip(w)))
        ]
        assert errors[0] < errors[1]


def test_damping_adds_a_part_of_the_mean_of_what_is_alive():
    h = np.diag([1.0, 0.0, 3.0])
    np.testing.assert_array_equal(damped(h, 0.5), np.diag([2.0, 1.0, 4.0]))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("q4_0", {}, "scaled elements"),
        ("mxfp4", {}, "scaled elements"),
        ("int4:channel:stochastic", {}, "nearest"),
        ("int4:channel@1", {}, "along a row"),
        ("int4:block8@0", {}, "along a row"),
        ("int4:channel", {"damping": -1.0}, "damping"),
        ("int4:channel", {"damping": float("nan")}, "damping"),
        ("int4:channel", {"ordering": "desc"}, "one of none, activation, not 'desc'"),
        ("int4:channel", {"scales": "column"}, "one of group, block, static, not 'column'"),
        ("int4:channel", {"lazy": 0}, "lazy of gptq lies within"),
    ],
)
def test_what_it_does_not_take(spec, options, message):
    with pytest.raises(ValueError, match=message):
        gptq(Layer(*problem()), spec, **options)


def test_inputs_that_do_not_fit():
    w, x = problem()
    with pytest.raises(ValueError, match="do not fit"):
        gptq(Layer(w, x[:, 1:]), "int4:channel")
    with pytest.raises(ValueError, match="do not fit"):
        gptq(Layer(w, x[:0]), "int4:channel")
    x[3, 4] = np.inf
    with pytest.raises(ValueError, match=r"inputs are not finite.*\(3, 4\)"):
        gptq(Layer(w, x), "int4:channel")


def test_it_has_a_spec():
    w, x = problem()
    spec = parse("gptq(ordering=activation,damping=0.1)")
    found = spec.apply(Layer(w, x), "int4:channel")
    assert (
        found.weights.tobytes()
        == gptq(Layer(w, x), "int4:channel", ordering="activation", damping=0.1).weights.tobytes()
    )


def test_which_of_two_errs_more_is_told_where_float32_cannot():
    """Errors whose traces differ by less than float32 sees: tr((A - B) H (A + B)ᵀ) in float64 decides."""
    rng = np.random.default_rng(0)
    told = []
    for _ in range(200):
        x, w, a = rng.normal(size=(64, 16)), rng.normal(size=(8, 16)), rng.normal(size=(8, 16))
        h = x.T @ x
        b = a @ np.linalg.qr(rng.normal(size=(16, 16)))[0]
        b *= np.sqrt(np.trace(a @ h @ a.T) / np.trace(b @ h @ b.T) * (1 + 1e-9 * rng.choice([-1.0, 1.0])))
        more = np.trace(a @ h @ a.T) > np.trace(b @ h @ b.T)
        told.append(errs_more(w + a, w + b, w, h) == more)
    assert all(told)
