"""Maps and tables of plain characters."""

import numpy as np
import pytest

from quantsim.cli import terminal
from quantsim.cli.terminal import SHADES, digit_map, shade_map, table


def cells(text):
    """A map's lines as pairs of characters."""
    return [[line[i : i + 2] for i in range(0, len(line), 2)] for line in text.split("\n")]


def test_shades_are_fifths():
    values = np.array([[0, 0.199, 0.2, 0.399], [0.4, 0.6, 0.8, 1.0]])
    levels = [[0, 0, 1, 1], [2, 3, 4, 4]]
    assert cells(shade_map(values * 7.0, 7.0)) == [[SHADES[i] for i in row] for row in levels]


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (3, 0)], ids=str)
@pytest.mark.parametrize("draw", [shade_map, digit_map])
def test_a_map_has_a_line_for_each_row_and_two_characters_for_each_entry(draw, shape):
    lines = draw(np.random.default_rng(0).uniform(-1, 1, shape), 1.0).split("\n")
    assert [len(line) for line in lines] == [2 * shape[1]] * shape[0]


@pytest.mark.parametrize("draw", [shade_map, digit_map])
def test_all_zeros_have_a_map(draw):
    assert len(set(cells(draw(np.zeros((2, 3)), 0.0))[0])) == 1


def test_more_than_the_top_stays_in_the_last_class():
    assert shade_map(np.array([[3.0, -3.0]]), 1.0) == SHADES[-1] + SHADES[0]


def test_digits_are_rounded_ninths():
    values = np.array([[-1.0, 1.0, 0.0, 0.05, 0.06, -0.5, 4 / 9]])
    assert [int(c) for c in cells(digit_map(values, 1.0))[0]] == [-9, 9, 0, 0, 1, -4, 4]


def test_maps_use_one_column_a_character():
    """No wide or combining characters, no escape codes."""
    assert all(c.isprintable() and not c.isspace() for s in SHADES for c in s)
    assert {len(s) for s in SHADES} == {2}
    assert len(set(SHADES)) == len(SHADES) == 5


def test_columns_are_padded_and_numbers_stand_to_the_right():
    text = table(("name", "n"), [("a", 1), ("long name", -10.5), ("b", "")])
    assert text.split("\n") == ["name           n", "a              1", "long name  -10.5", "b"]


def test_a_column_with_a_word_stands_to_the_left():
    assert table(("x",), [("1",), ("one",)]).split("\n") == ["x", "1", "one"]


def test_the_last_column_is_cut():
    lines = table(("id", "text"), [("A1", "x" * 30), ("A2", "y" * 10)], last=10).split("\n")
    assert lines == ["id  text", "A1  " + "x" * 9 + "…", "A2  " + "y" * 10]


def test_a_table_without_rows_is_its_header():
    assert table(("a", "bc"), []) == "a  bc"


def test_rows_of_another_length_are_an_error():
    with pytest.raises(ValueError, match="argument"):
        table(("a", "b"), [("1",)])


@pytest.mark.parametrize(("text", "number"), [("1.5", True), ("-3", True), ("+2", True), ("", True), ("nan", False)])
def test_numbers_are_told_from_words(text, number):
    assert terminal._is_number(text) == number
