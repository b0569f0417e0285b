"""The study of mitigations has a place for every one that is registered, and names for all that it draws."""

from quantsim.lab import study
from quantsim.mitigations import FUNCTIONS, parse


def test_every_mitigation_takes_part_in_the_study():
    of = study.module("mitigations")
    assert {parse(spec).name for spec in of.REMEDIES} == set(FUNCTIONS)
    assert of.OPTIONS.keys() <= FUNCTIONS.keys()
    assert set(of.NAMES) == set(of.REMEDIES)
    assert len(set(of.NAMES.values())) == len(of.NAMES)
    assert set(of.NAMED) <= set(FUNCTIONS)
