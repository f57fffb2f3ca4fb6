"""Each translation of README names what README names: the same lessons in the same order, and no command of its own."""

import re

import pytest

from mlcourse import places

ROOT = places.repository()
PAGES = sorted(ROOT.glob("README.*.md"))
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs a clone of the repository")


def lessons(text):
    return re.findall(r"^\| (\d\d) \| \[[^\]]+\]\((notebooks/[^)]+)\)", text, re.MULTILINE)


def commands(text):
    """Lines of shell blocks and commands in a sentence; what stands in <…> and behind # is for people."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = [line.split("#")[0].strip() for line in re.sub(r"<[^>]*>", "<…>", blocks).splitlines()]
    return {line for line in lines if line} | set(re.findall(r"`((?:mlcourse|make|python) [^`]+)`", text))


def faults(page, readme):
    """What is wrong with a translation, in words."""
    found = []
    if lessons(page) != lessons(readme):
        odd = {file for _, file in set(lessons(page)) ^ set(lessons(readme))}
        which = f" ({', '.join(sorted(odd))})" if odd else ""
        found.append(
            f"the lessons are others, or in another order, than in README.md{which}: enter them in both syllabi"
        )
    found += [f"README.md has no command {line!r}" for line in sorted(commands(page) - commands(readme))]
    if "](README.md)" not in page:
        found.append("there is no link to README.md")
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_translation_says_what_readme_says(path):
    assert faults(path.read_text(encoding="utf-8"), (ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_readme_links_each_translation():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert PAGES
    for path in PAGES:
        assert f"]({path.name})" in readme
        for other in set(PAGES) - {path}:
            assert f"]({path.name})" in other.read_text(encoding="utf-8"), f"{other.name} does not link {path.name}"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("| 05 |", "| 15 |", "the lessons are others"),
        ("(notebooks/05_", "(notebooks/95_", "hand.ipynb): enter them in both"),
        ("make lab ", "make lap ", "no command 'make lap'"),
        ("`mlcourse doctor`", "`mlcourse doctors`", "mlcourse doctors"),
        ("](README.md)", "](README)", "no link"),
    ],
)
def test_a_translation_that_fell_behind_is_found(old, new, named):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert old in page
    assert any(named in fault for fault in faults(page.replace(old, new), readme))
