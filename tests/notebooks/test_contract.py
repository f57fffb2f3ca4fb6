"""Every notebook keeps the rules that can be read off the file, without running it."""

import base64
import re
import shutil

import harness
import pytest

from mlcourse import places
from mlcourse.commands.run import write_html
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


@pytest.mark.parametrize("name", LESSONS)
def test_a_page_of_it_holds_its_pictures(name, tmp_path):
    copy = tmp_path / LESSONS[name].path.name
    shutil.copy(LESSONS[name].path, copy)
    page = write_html(copy).read_text(encoding="utf-8")
    sources = re.findall(r"<img\b[^>]*?\bsrc=[\"']?([^\"'>]{0,40})", page)
    assert sources
    assert [source for source in sources if not source.startswith("data:image/")] == []


@pytest.mark.skipif("00_start_here" not in LESSONS, reason="NB names another notebook")
def test_the_pad_in_00_is_that_of_the_readme():
    attached = LESSONS["00_start_here"].notebook.cells[0].attachments["pad.gif"]["image/gif"]
    assert base64.b64decode(attached) == (places.repository() / "docs" / "pad.gif").read_bytes()
