"""Every notebook keeps the rules that can be read off the file, without running it."""

import ast
import base64
import contextlib
import inspect
import re
import shutil
import textwrap

import harness
import pytest
import torch
from PIL import Image

from mlcourse import datasets, networks, places
from mlcourse.commands.pages import write_html
from mlcourse.commands.run import parameters_of
from mlcourse.errors import CourseError
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
def test_the_first_cell_says_and_checks_which_data_is_taken(name, tmp_path, monkeypatch, capsys):
    """A data set that a notebook cannot work with is refused there, and not after thirty cells by a shape."""
    code = LESSONS[name].code
    (after,) = (code[k + 1] for k, cell in enumerate(code) if "parameters" in harness.tags(cell))
    threads = torch.get_num_threads()
    monkeypatch.setenv("MLCOURSE_DATA", str(tmp_path))  # no local copies
    folder = tmp_path / "photos"
    for part in ("train", "test"):
        for i in range(2):
            (folder / part / f"{part}{i}").mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (8, 8), (i, k, 0)).save(folder / part / f"{part}{i}" / f"{k}.png")

    def begin(data):
        values = {"SEED": 0, "DATASET": data, "BUDGET": "smoke", "DEVICE": "cpu"}
        try:
            exec(compile(after.source, name, "exec"), values)
        finally:
            torch.set_num_threads(threads)
        return values["session"]

    own = parameters_of(LESSONS[name].notebook)["DATASET"]
    assert begin(own).dataset == own
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    if own not in datasets.NAMES:  # drawn by the course itself: nothing else is taken
        assert f"data {own} (taken: {own})" in said
        for data in (*datasets.NAMES, str(folder), "", "photo"):
            with pytest.raises(CourseError, match=f"this takes {own}, but not .*: set DATASET to"):
                begin(data)
        return
    known = dict.fromkeys(("omniglot", "caltech101"), "no folder .*download") | {str(folder): "has 2 t.* classes, but"}
    for data, when_taken in known.items():
        taken = ("a folder of class folders" if data == str(folder) else data) in said
        with pytest.raises(CourseError, match=when_taken if taken else "this takes glyphs.*, but not") as error:
            begin(data)
        assert "\n" not in str(error.value)
    with pytest.raises(CourseError, match="name is empty"):
        begin("")
    with pytest.raises(CourseError, match="unknown data set 'photo'"):
        begin("photo")


@pytest.mark.parametrize("name", LESSONS)
def test_a_page_of_it_holds_its_pictures(name, tmp_path):
    copy = tmp_path / LESSONS[name].path.name
    shutil.copy(LESSONS[name].path, copy)
    page = write_html(copy).read_text(encoding="utf-8")
    sources = re.findall(r"<img\b[^>]*?\bsrc=[\"']?([^\"'>]{0,40})", page)
    assert sources
    assert [source for source in sources if not source.startswith("data:image/")] == []


def shown(lesson) -> dict[str, object]:
    """The functions and classes of the package that cells with `getsource` name, by their names there."""
    names, found = {}, {}
    for cell in lesson.code:
        nodes = list(ast.walk(harness.parse(cell)))
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom) and "mlcourse" in ast.unparse(node):
                exec(ast.unparse(node), names)
        if "getsource" not in cell.source:
            continue
        plain = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)]
        for node in plain:
            with contextlib.suppress(NameError, AttributeError):  # of the notebook itself
                exec(ast.unparse(node), names)
        parts = [node.value for node in nodes if isinstance(node, ast.Attribute | ast.Assign)]
        for node in nodes:
            if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load) and node not in parts:
                with contextlib.suppress(NameError, AttributeError):
                    value = eval(ast.unparse(node), names)
                    if str(getattr(value, "__module__", "")).startswith("mlcourse"):
                        found[ast.unparse(node)] = value
    return found


ALSO_SHOWN = {"07_the_price_of_unrolling": {"type(network.blocks[0]).wide": networks.conv4.Block.wide}}


@pytest.mark.parametrize(
    "name", [name for name, lesson in LESSONS.items() if any("getsource" in c.source for c in lesson.code)]
)
def test_what_is_shown_of_the_package_keeps_the_columns_of_a_cell(name):
    parts = shown(LESSONS[name]) | ALSO_SHOWN.get(name, {})
    assert parts, "no function was found: name those that are shown in ALSO_SHOWN"
    lines = {part: textwrap.dedent(inspect.getsource(value)).splitlines() for part, value in parts.items()}
    long = [f"{part}: {line.strip()}" for part, ls in lines.items() for line in ls if len(line) > tidy.LINE_LENGTH]
    assert not long, "\n".join(long)


@pytest.mark.skipif("00_start_here" not in LESSONS, reason="NB names another notebook")
def test_the_pad_in_00_is_that_of_the_readme():
    attached = LESSONS["00_start_here"].notebook.cells[0].attachments["pad.gif"]["image/gif"]
    assert base64.b64decode(attached) == (places.repository() / "docs" / "pad.gif").read_bytes()
