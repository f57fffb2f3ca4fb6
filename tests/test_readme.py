"""README read literally: each command is one that there is, with its options, and what it promises is there."""

import re
import shlex

import pytest
import typer
from typer.core import TyperGroup

from mlcourse import environment, files, places
from mlcourse.commands import COMMANDS, OF_TASKS, app, doctor

ROOT = places.repository()
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs a clone of the repository")

OTHERS = {"git", "cd", "source", "conda"}  # commands of others
PREFIXES = ("mlcourse ", "make ", "python mlcourse/environment.py ", ".venv/bin/python -m mlcourse ")
# What stands for a value in a command that is kept as a recipe for many.
STANDS_FOR = {"METHOD": "maml", "SEED": "1", "EPISODE_SEED": "1", "WAY": "5", "STEPS": "400"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(text):
    """Every command of a text: lines of its shell blocks, and code in a sentence that begins like one of ours."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [part.split("#")[0].strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [line for line in lines if line] + [
        code for code in re.findall(r"(?<!`)`([^`\n]+)`", text) if code.startswith(PREFIXES)
    ]


def check(line):
    """Raise for a command that the course does not have, or not with these options."""
    line = line.replace(".venv/bin/python -m mlcourse", "mlcourse")
    line = re.sub(r"^torchrun --nproc-per-node \d+ -m mlcourse", "mlcourse", line)
    first, *words = shlex.split(line.replace("python mlcourse/environment.py", "make"))
    if first == "make":
        options = [word for word in words if not word.startswith("PYTHON=")]  # make's own; Makefile has it
        environment.read_arguments(options)
    elif first == "mlcourse" and (len(words) == 1 or words[-1] == "--help"):  # a command is only named
        assert words[0] in COMMANDS, f"there is no command {words[0]}"
    elif first == "mlcourse":
        parse(words)
    else:
        assert first in OTHERS, f"{line}: {first} is no command of the course"


def parse(words):
    """Read the words of an `mlcourse …` as the program does, without doing anything."""
    command, context, name = typer.main.get_command(app), None, "mlcourse"
    while True:
        is_group = isinstance(command, TyperGroup)
        context = command.make_context(name, words[:1] if is_group else words, parent=context)
        if not is_group:
            return context.params
        words = [" ".join(words[:2]), *words[2:]] if " ".join(words[:2]) in OF_TASKS else words
        name, words = words[0], words[1:]
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"


# The changelog is history.
TEXTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/results.md", "docs/teaching.md", "docs/questions.md"]
TEXTS += ["data/checkpoints/README.md", "data/glyphs/README.md", "docs/challenge.md", "docs/scaling.md"]
FOUND = [
    (name, line)
    for name in TEXTS
    if (ROOT / name).is_file()
    for line in commands(read(name))
    if "…" not in line and (name == "README.md" or line.startswith(PREFIXES))
]


@pytest.mark.parametrize(("name", "line"), FOUND)
def test_each_command_is_one_that_there_is(name, line):
    check(line)


def test_commands_are_found():
    lines = [line for name, line in FOUND if name == "README.md"]
    assert len(lines) > 20
    for needed in ("make lab", "make test NB=01", "mlcourse run 1 -p DATASET=omniglot --seed 3", "mlcourse doctor"):
        assert needed in lines


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("mlcourse fly", "fly"),
        ("mlcourse fly 3", "fly"),
        ("mlcourse run 1 --sed 3", "--sed"),
        ("mlcourse run 1 --budget short", "short"),
        ("mlcourse run 1 --seed three", "integer"),
        ("mlcourse lab 01", "01"),
        ("mlcourse train --dataset glyphs", "METHOD"),
        ("mlcourse data lists", "lists"),
        ("mlcourse data fetch", "NAME"),
        ("mlcourse data show photos --sheet x.png", "--sheet"),
        ("make fly", "fly"),
        ("make test NN=05", "NN"),
        ("python mlcourse/environment.py", "say one of"),
        ("pip install mlcourse", "pip"),
    ],
)
def test_a_command_that_there_is_not_is_found(line, named):
    with pytest.raises(Exception, match=f"(?i){re.escape(named)}"):
        check(line)


@pytest.mark.parametrize("name", ["omniglot", "glyphs"])
def test_the_commands_behind_the_results_still_work(name):
    """Also where an option has another name by now."""
    for kind, line in files.read_json(ROOT / "data" / "results" / f"{name}.json")["commands"].items():
        if kind == "seeds":
            continue
        words = shlex.split(re.sub(r"\[.*", "", line))
        parse([STANDS_FOR.get(word, word) for word in words[1:]])
        for more in re.findall(r"\[(?:\w+: )?(--[^]]*)\]", line):
            parse([STANDS_FOR.get(word, word) for word in [*words[1:], *shlex.split(more)]])


# -------------------------------------------------------------------------------- what it promises


def test_tracks_and_syllabus_name_notebooks_that_are_there():
    text = read("README.md")
    there = {path.name[:2] for path in places.notebooks().glob("*.ipynb")}
    tracks = text[text.index("| track ") :].split("\n\n")[0]
    syllabus = text[text.index("| nn ") :].split("\n\n")[0]
    named = [number for row in tracks.splitlines()[2:] for number in re.findall(r"\b\d\d\b", row.split("|")[2])]
    assert sorted(named) == sorted(there)
    assert set(re.findall(r"^\| (\d\d) \|", syllabus, re.MULTILINE)) == there
    assert f"00 to {max(there)}" in text


def test_the_memory_that_is_named_is_the_measured_one():
    """README and `mlcourse doctor` name the peak of the largest lesson (data/results/lessons.json)."""
    peaks = {name: row["peak_mb"] for name, row in files.read_json(ROOT / "data/results/lessons.json").items()}
    least, most = map(float, re.search(r"A lesson takes ([\d.]+) to ([\d.]+) GB", read("README.md")).groups())
    assert least == pytest.approx(min(peaks.values()) / 1000, abs=0.15)
    assert most == pytest.approx(max(peaks.values()) / 1000, abs=0.15)
    assert abs(doctor.MEMORY_GB - most) <= 0.15
    largest = max(peaks, key=peaks.get)
    assert f"notebook {largest[:2]} takes most" in read("README.md")
    assert peaks[largest] < 4000 / 1.5  # 4 GB leave room for JupyterLab and a browser


def paths(text):
    """The files of the repository that a text names, between backticks or as an argument of a command."""
    room = r"(?:mlcourse|tests|data|docs|notebooks)/[\w./-]+"
    commands = re.findall(rf"(?<= )({room}\.py)\b", text)
    return [*re.findall(rf"`({room})`", text), *commands]


ROOMS = [ROOT / "data", ROOT / "docs", ROOT / "mlcourse"]
PAGES = sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in room.rglob("*.md"))
AT_THE_DOOR = sorted(path.name for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md")


@pytest.mark.parametrize("name", PAGES)
def test_each_file_that_a_page_names_is_there(name):
    for path in paths(read(name)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", [*AT_THE_DOOR, *PAGES])
def test_each_link_of_a_page_leads_somewhere(name):
    """Files and folders by their paths, and headings of the page itself."""
    text = read(name)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not re.match(r"[a-z]+:", target):
            assert ((ROOT / name).parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("name", AT_THE_DOOR)
def test_each_file_that_a_page_at_the_door_names_is_there(name):
    for path in paths(read(name)):
        assert (ROOT / path).exists(), path


def test_each_file_that_readme_names_is_there():
    found = paths(read("README.md"))
    assert "data/results/lessons.json" in found
    for path in found:
        assert (ROOT / path).exists(), path
