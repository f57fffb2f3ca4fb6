"""Every notebook keeps the rules that can be read off the file, without running it."""

import harness
import pytest

from mlcourse.teaching import tidy

LESSONS = {path.stem: harness.Lesson.read(path) for path in harness.notebooks()}


@pytest.mark.parametrize("rule", harness.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", LESSONS)
def test_rule(name, rule):
    complaints = rule(LESSONS[name])
    assert not complaints, f"{name}: {rule.__doc__}\n" + "\n".join(complaints)


@pytest.mark.parametrize("name", LESSONS)
def test_tidy(name):
    assert tidy.check([LESSONS[name].path]) == [], "run `make tidy`"
