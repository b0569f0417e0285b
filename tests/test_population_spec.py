"""Spec strings of populations: parse and str are inverses, and what is no population is told so helpfully."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsim.populations import (
    Contaminated,
    Empirical,
    GeneralizedNormal,
    Laplace,
    Mixture,
    Normal,
    Outliers,
    StudentT,
    Uniform,
    parse,
)

POSITIVE = st.floats(1e-30, 1e30)
BULKS = st.one_of(
    st.builds(Normal, POSITIVE),
    st.builds(Laplace, POSITIVE),
    st.builds(Uniform, POSITIVE),
    st.builds(StudentT, st.floats(2, 1e6, exclude_min=True), POSITIVE),
    st.builds(GeneralizedNormal, st.floats(0.25, 64), POSITIVE),
)
FRACTIONS = st.floats(0.0, 1.0)


@st.composite
def outliers(draw):
    how_many = draw(st.one_of(FRACTIONS, st.integers(0, 10**6)))
    how_large = draw(st.sampled_from(["magnitude", "value"]))
    return Outliers(
        **{"rate" if isinstance(how_many, float) else "count": how_many},
        **{how_large: draw(POSITIVE)},
        layout=draw(st.sampled_from(["element", "row", "column", "block"])),
        sign=draw(st.sampled_from(["random", "positive", "negative"])),
        values=draw(st.sampled_from(["exact", "spread"])),
        block=draw(st.sampled_from([1, 32, 100])),
    )


def contaminated(bulks):
    return st.builds(Contaminated, bulks, outliers())


@st.composite
def mixtures(draw, parts):
    shares = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
    weights = tuple(s / math.fsum(shares) for s in shares)
    return Mixture(weights, tuple(draw(parts) for _ in shares))


ONE_LEVEL = st.one_of(BULKS, contaminated(BULKS), mixtures(BULKS))
POPULATIONS = st.one_of(ONE_LEVEL, contaminated(ONE_LEVEL), mixtures(ONE_LEVEL))


# beartype picks one element of a long tuple by random.random; what it picks changes no result
strategy_safe = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


@strategy_safe
@settings(max_examples=300, deadline=None)
@given(POPULATIONS)
def test_parse_reads_back_every_population(pop):
    assert parse(str(pop)) == pop
    assert hash(parse(str(pop))) == hash(pop)


@strategy_safe
@settings(max_examples=50, deadline=None)
@given(POPULATIONS)
def test_spaces_do_not_matter(pop):
    assert parse(f" {pop} ".replace("+outliers", " + outliers ").replace(",", ", ").replace("=", " = ")) == pop


@pytest.mark.parametrize(
    ("text", "pop"),
    [
        ("normal", Normal()),
        ("normal(std=0.02)", Normal(0.02)),
        ("laplace(std=1e-3)", Laplace(0.001)),
        ("uniform(std=1e+3)", Uniform(1000.0)),
        ("t5", StudentT(5.0)),
        ("t2.5(std=3)", StudentT(2.5, 3.0)),
        ("gennorm(beta=1.5)", GeneralizedNormal(1.5)),
        ("gennorm(std=2,beta=8)", GeneralizedNormal(8.0, 2.0)),
        (
            "mixture(0.5*gennorm(beta=0.5)+0.5*gennorm(beta=4,std=3)+outliers(rate=0.1,value=9))",
            Mixture(
                (0.5, 0.5),
                (GeneralizedNormal(0.5), GeneralizedNormal(4.0, 3.0).with_outliers(rate=0.1, value=9.0)),
            ),
        ),
        ("normal+outliers(rate=0.01,magnitude=100)", Normal().with_outliers(rate=0.01, magnitude=100.0)),
        (
            "t5+outliers(count=3,value=1e+2,layout=column)",
            StudentT(5.0).with_outliers(count=3, value=100.0, layout="column"),
        ),
        ("mixture(1*normal)", Mixture((1.0,), (Normal(),))),
        (
            "mixture(0.5*normal+0.5*t3+outliers(rate=0.1,value=9))",
            Mixture((0.5, 0.5), (Normal(), StudentT(3.0).with_outliers(rate=0.1, value=9.0))),
        ),
        (
            "mixture(0.5*normal+0.5*t3)+outliers(rate=0.1,value=9)",
            Mixture((0.5, 0.5), (Normal(), StudentT(3.0))).with_outliers(rate=0.1, value=9.0),
        ),
        (
            "normal+outliers(rate=0.1,value=2)+outliers(rate=0.01,value=9)",
            Normal().with_outliers(rate=0.1, value=2.0).with_outliers(rate=0.01, value=9.0),
        ),
    ],
)
def test_specs_mean_what_they_say(text, pop):
    assert parse(text) == pop


@pytest.mark.parametrize(
    ("pop", "text"),
    [
        (Normal(1.0), "normal"),
        (Normal(100.0), "normal(std=100)"),
        (StudentT(5.0), "t5"),
        (GeneralizedNormal(2.0), "gennorm(beta=2)"),
        (GeneralizedNormal(1.5, 0.02), "gennorm(beta=1.5,std=0.02)"),
        (StudentT(1e15, 0.1 + 0.2), "t1000000000000000(std=0.30000000000000004)"),
        (
            Normal().with_outliers(count=3, magnitude=1e-5, sign="positive", block=64),
            "normal+outliers(count=3,magnitude=1e-05,sign=positive,block=64)",
        ),
    ],
)
def test_specs_are_short(pop, text):
    assert str(pop) == text
    assert parse(text) == pop


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read '' in population ''; write for example normal"),
        ("normla", "unknown population 'normla' in 'normla'; did you mean 'normal'.*known are normal, laplace"),
        ("gamma", r"'gamma'.*; known are normal, laplace, uniform, tN \(N > 2\), gennorm\(beta=…\), mixture\(\), each"),
        ("genorm(beta=2)", "unknown population 'genorm' .*did you mean 'gennorm'"),
        ("gennorm", "GeneralizedNormal takes beta, std, got nothing"),
        ("gennorm(df=2)", "GeneralizedNormal takes beta, std, got df"),
        ("gennorm(beta=0.2)", "exponent of a generalized normal lies between 0.25 and 64, got beta = 0.2"),
        ("gennorm(beta=2,std=-1)", "must be positive and finite, got -1"),
        ("normal+outlier(rate=0.1,value=3)", "unknown population 'outlier' .*did you mean 'outliers'"),
        ("normal+t5", "unknown population 't5'"),
        ("t", "unknown population 't'"),
        ("t2", "df > 2, got df = 2"),
        ("normal(std=0.02", "cannot read"),
        ("normal std=2)", "cannot read"),
        ("Normal", "cannot read 'Normal'"),
        ("normal(0.02)", "write '0.02' .* as name=value"),
        ("normal(std=abc)", "'abc' in population .* is not a number"),
        ("normal(std=0)", "must be positive and finite, got 0"),
        ("normal(std=nan)", "must be positive and finite"),
        ("normal(mean=2)", "Normal takes std, got mean"),
        ("normal(std=1,std=2)", "gives std twice"),
        ("normal+outliers(rate=0.1)", "either a magnitude"),
        ("normal+outliers(magnitude=3)", "either a rate or a count"),
        ("normal+outliers(rate=2,magnitude=3)", "rate must lie between 0 and 1, got 2"),
        ("normal+outliers(rate=0.1,size=3)", "Outliers takes rate, count, magnitude.*got rate, size"),
        ("normal+outliers(rate=0.1,value=3,layout=diagonal)", "layout"),
        ("normal+outliers(count=2.5,value=3)", "count"),
        ("mixture(0.5*normal)", "add up to 1"),
        ("mixture(normal+t5)", "write 'normal' in population .* as probability\\*population"),
        ("mixture()", "as probability\\*population"),
        ("mixture", "as probability\\*population"),
        ("mixture(x*normal)", "'x' in population .* is not a number"),
        ("mixture(1*normla)", "unknown population 'normla' in 'mixture.*did you mean 'normal'"),
        ("empirical(0123456789ab)", "made from values, not from a spec"),
    ],
)
def test_what_is_no_population_is_told_so(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "family", [Normal, Laplace, Uniform, lambda s: StudentT(5.0, s), lambda s: GeneralizedNormal(2.0, s)]
)
@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan, 0])
def test_a_standard_deviation_must_be_positive_and_finite(family, std):
    with pytest.raises(ValueError, match="standard deviation must be positive and finite"):
        family(std)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentT(2.0), "df > 2"),
        (lambda: StudentT(math.inf), "df > 2"),
        (lambda: Mixture((1.0,), (Normal(), Normal())), "1 probabilities for 2 components"),
        (lambda: Mixture((), ()), "0 probabilities for 0"),
        (lambda: Mixture((0.5, 0.4), (Normal(), Normal())), "add up to 1"),
        (lambda: Mixture((1.5, -0.5), (Normal(), Normal())), "at least 0"),
        (lambda: Empirical([]), "at least one value"),
        (lambda: Empirical([1.0, math.nan]), "all of them finite"),
    ],
)
def test_what_is_no_population_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
