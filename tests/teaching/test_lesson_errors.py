"""Errors that a lesson shows on purpose must come, and must be the right ones."""

import pytest

from mlcourse.errors import CourseError
from mlcourse.teaching import lesson


def test_expected_error_is_printed_in_one_line(capsys):
    with lesson.expected(ValueError, "batch"):
        raise ValueError("400 rows,\n a batch of 100")
    assert capsys.readouterr().out == "ValueError, as expected: 400 rows, a batch of 100\n"


def test_error_that_does_not_come_is_an_error():
    with pytest.raises(CourseError, match="should show NameError with the words 'F'"), lesson.expected(NameError, "F"):
        pass


@pytest.mark.parametrize("other", [TypeError("shape"), ValueError("size")])
def test_another_error_passes_through(other, capsys):
    with pytest.raises(type(other), match=str(other)), lesson.expected(ValueError, "batch"):
        raise other
    assert not capsys.readouterr().out
