"""Rows of data/results as notebook 17 names them."""

from mlcourse.learners import METHODS
from mlcourse.lessons.capstone import stored


def test_a_row_that_comes_later_has_a_name():
    assert stored.title("film") == METHODS["film"].title
    assert stored.title("a method of tomorrow") == "a method of tomorrow"
    assert {name for name, *_ in stored.means_and_worst()} == {stored.title(name) for name in stored.logs()}
