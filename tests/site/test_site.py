"""`mlcourse site`: a small site, built offline through the command, and what must hold of every page."""

import html
import re
import shutil
import sys
from pathlib import Path

import pytest
from site_helpers import NOTEBOOKS, made, small_site
from typer.testing import CliRunner

from mlcourse import places, protocols
from mlcourse.commands import app
from mlcourse.learners import METHODS
from mlcourse.site import building, checking, command, methods, pdf, sources

FIRST_VISIT = 1_000_000  # bytes before pictures


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return small_site(tmp_path_factory)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def lesson(site: Path, number: str) -> str:
    (page,) = (site / "notebooks").glob(f"{number}_*.html")
    return text(page)


# ------------------------------------------------------------------ the pages


def test_the_site_has_no_fault_and_every_page(site):
    assert checking.faults(site) == []
    names = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    wanted = {f"methods/{methods.file_of(name)}" for name in METHODS} | {f"docs/{name}" for name in sources.DOCS}
    assert wanted | {"index", "search", "genindex", "methods/index", "reference/index", "notebooks/README"} <= names
    assert len(list((site / "notebooks").glob("[0-9]*.html"))) == len(NOTEBOOKS)


@pytest.mark.parametrize(
    ("put_in", "told"),
    [
        ('<a href="notebooks/99_gone.html">gone</a>', "leads nowhere"),
        ('<a href="docs/glossary.html#gone">gone</a>', "there is no place gone"),
        ('<img src="_static/site.css">', "a picture without a text"),
        ('<script src="https://example.org/a.js"></script>', "asks another host"),
    ],
)
def test_a_fault_that_is_put_in_is_told(site, tmp_path, put_in, told):
    copy = shutil.copytree(site, tmp_path / "copy")
    (copy / "index.html").write_text(text(copy / "index.html").replace("</article>", put_in + "</article>", 1))
    (fault,) = checking.faults(copy)
    assert told in fault


def test_a_first_visit_is_light(site):
    for name in ("index", "docs/syllabus", "docs/results", "methods/maml"):
        assert checking.weight(site / f"{name}.html") < FIRST_VISIT, name


def test_tables_say_how_to_read_them(site):
    page = " ".join(re.sub(r"<[^>]*>", "", text(site / "docs" / "results.html")).split())
    for words in ("ranks a network, not a method", "shares the rank of the best one of that rank"):
        assert page.count(words) == 2, words  # the tables of README, and all others


def test_pictures_are_files_that_wait_and_are_small(site):
    for number in NOTEBOOKS:
        page = lesson(site, number)
        assert "data:image" not in page
        waiting = re.findall(r'<img[^>]*src="\.\./_static/pictures/[^>]*>', page)
        assert waiting
        assert all('loading="lazy"' in one for one in waiting)
    sizes = [path.stat().st_size for path in (site / "_static" / "pictures").iterdir() if path.suffix != ".gif"]
    assert max(sizes) < 150_000


def test_a_widget_is_a_stack_of_pictures_with_texts(site):
    page = lesson(site, "05")
    (stack,) = re.findall(r'<div class="stack".*?<p class="stack-said"', page, re.DOTALL)
    assert "|0.40|" in stack
    assert "|0.55|" in stack
    texts = re.findall(r'<img[^>]*alt="([^"]*)"', stack)
    assert len(texts) == 13 * 11  # all rates and steps: the text names some of them
    assert "Recorded: 143 pictures, for all 143 combinations of these values." in page
    assert len(set(texts)) == len(texts)  # each picture has a text of its own
    assert min(map(len, texts)) >= 40
    assert stack.count('type="range"') == 2


def test_the_drawing_pad_is_a_recorded_drawing(site):
    page = lesson(site, "00")
    assert page.count('<svg class="pad-replay"') == 2 * 15  # the pad, and the pad with the network of one's own
    assert "Drawing pad with the sample drawings Signs: 5 taught characters" in page


def test_what_the_recorded_pad_has_not_is_said(site):
    page = lesson(site, "00")
    for name in ("Another sample", "Clear all", "Who answers?"):
        assert name in re.search(r'<p class="stack-line">.*?</p>', page)[0]


def test_the_way_to_the_living_course_is_on_the_first_page_and_a_page_of_its_own(site):
    for name in ("index", "start"):
        page = text(site / f"{name}.html")
        assert "git clone" in re.sub(r"<[^>]*>", "", page)
        assert "make lab" in re.sub(r"<[^>]*>", "", page)
        assert "Start the living course" in page
    assert 'href="start.html"' in text(site / "index.html")
    assert "about 3 GB to download" in text(site / "start.html")


def test_a_site_of_a_short_run_says_so_on_each_page(site):
    told = "Built with the short settings <code>smoke</code>: figures are those of a short run."
    for page in site.rglob("*.html"):
        assert told in text(page), page


def test_a_site_of_the_lessons_has_no_banner():
    assert command.banner(command.Budget.lesson) == ""
    assert "<code>paper</code>: figures are those of a long run" in command.banner(command.Budget.paper)


def test_solutions_are_folded_and_formulas_need_no_program(site):
    page = lesson(site, "05")
    folded = re.findall(r"<details.*?</details>", page, re.DOTALL)
    for solution in re.findall(r"solution_\w+", page):
        assert any(solution in fold for fold in folded)
    plain = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    assert 'class="nf">solution_' not in plain
    assert page.count("<math") > 20
    assert not re.search(r"<script[^>]*mathjax", page, re.IGNORECASE)
    assert not re.search(r'<div class="math"><code>', page), "a formula was not understood"


def test_a_method_has_paper_code_figures_and_lessons(site):
    page = text(site / "methods" / "prototypical.html")
    assert METHODS["prototypical"].paper.link in page
    assert "PrototypicalNetwork" in page
    assert "98.8 %" in page  # of the paper
    assert "98.42" in page  # measured here
    assert 'href="../notebooks/00_start_here.html"' in page


def test_the_search_knows_terms_functions_and_lessons(site):
    index = text(site / "searchindex.js")
    for word in ("prototyp", "hypergradi", "squared_distances"):
        assert word in index, word
    for name in ("searchtools.js", "language_data.js", "searchindex.js"):
        assert name in text(site / "search.html")
        assert name not in text(site / "index.html")  # half a megabyte that a reader does not need


def test_results_come_with_a_forest_plot_for_light_and_dark(site):
    page = text(site / "docs" / "results.html")
    plots = re.findall(r"<img[^>]*forest-[^>]*>", page)
    compared = [one for one in map(protocols.read, protocols.names()) if any(protocols.folders(one)[0].glob("*.json"))]
    assert len(plots) == 2 * len(compared)
    assert all("Forest plot of" in one for one in plots)
    assert {look for look in ("only-light", "only-dark") for one in plots if look in one} == {"only-light", "only-dark"}


# ------------------------------------------------------------------ the command


def ask(*arguments: str):
    return CliRunner().invoke(app, ["site", *arguments])


def test_a_folder_of_other_files_is_refused(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("sphinx_book_theme")
    (tmp_path / "mine.txt").write_text("mine")
    answer = ask(str(tmp_path), "00")
    assert answer.exit_code == 2
    assert "holds files that `mlcourse site` did not make" in answer.output
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_without_sphinx_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    answer = ask(str(tmp_path / "out"), "00")
    assert answer.exit_code == 2
    assert "pip install" in answer.output
    assert len(answer.output.strip().splitlines()) == 1


def test_pdf_without_a_browser_is_one_line_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "check_installed", lambda: None)
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    answer = ask(str(tmp_path / "out"), "00", "--pdf")
    assert answer.exit_code == 2
    assert "--pdf needs Chromium or Chrome" in answer.output
    assert len(answer.output.strip().splitlines()) == 1


def test_a_browser_that_fails_is_one_line(tmp_path):
    (tmp_path / "a.html").write_text("<p>A")
    with pytest.raises(command.CourseError, match=r"did not print a\.html"):
        pdf.write(tmp_path / "a.html", tmp_path / "a.pdf", sys.executable)
    assert not (tmp_path / "a.pdf").exists()


def test_a_second_site_takes_the_place_of_the_first(tmp_path):
    made_now, out = tmp_path / "made", tmp_path / "out"
    for number in (1, 2):
        made_now.mkdir()
        (made_now / f"{number}.html").write_text(str(number))
        (made_now / "theme.css.map").write_text("{}")
        command.put(made_now, out)
        shutil.rmtree(made_now)
    assert sorted(path.name for path in out.iterdir()) == [command.MADE_BY, ".nojekyll", "2.html"]


def page(made_now, name, text):
    made_now.mkdir(exist_ok=True)
    (made_now / name).write_text(text)
    return made_now


def test_what_others_keep_in_the_folder_stays(tmp_path):
    """Whoever publishes the folder keeps a CNAME or a .git in it."""
    out = tmp_path / "out"
    command.put(page(tmp_path / "made", "1.html", "1"), out)
    (out / "CNAME").write_text("course.example")
    (out / ".git" / "refs").mkdir(parents=True)
    (out / ".git" / "refs" / "main").write_text("abc")
    (out / ".git" / "refs" / "tags").mkdir()  # empty, and git needs it
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new" / "mine").write_text("mine")
    command.put(page(tmp_path / "other", "2.html", "2"), out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {command.MADE_BY, ".nojekyll", "2.html", "CNAME", ".git/refs/main"}
    assert (out / "CNAME").read_text() == "course.example"
    assert (out / ".git" / "refs" / "tags").is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "made", "other", ".out.new"}
    (out / "1.html").write_text("somebody's own")
    with pytest.raises(command.CourseError, match=r"1\.html is not of `mlcourse site`"):
        command.put(page(tmp_path / "made", "1.html", "1"), out)
    assert (out / "1.html").read_text() == "somebody's own"
    (out / "3.html").mkdir()
    with pytest.raises(command.CourseError, match=r"3\.html is not of `mlcourse site`"):
        command.put(page(tmp_path / "third", "3.html", "3"), out)
    shutil.rmtree(tmp_path / "third")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "made", "other", ".out.new"}


def test_two_calls_do_not_build_into_one_folder_at_once(tmp_path):
    again = pytest.raises(command.CourseError, match="another `mlcourse site`")
    with command.alone(tmp_path / "out"), again, command.alone(tmp_path / "out"):
        pytest.fail("it began")
    with command.alone(tmp_path / "out"):
        pass


def test_a_link_leads_to_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "check_installed", lambda: None)
    built = []
    monkeypatch.setattr(command, "_build", lambda out, *_: built.append(out))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert ask(str(tmp_path / "link"), "00").exit_code == 0
    assert built == [(tmp_path / "real").resolve()]


def test_a_notebook_that_fails_ends_the_command_in_one_line(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("sphinx_book_theme")
    import nbformat

    cells = [
        nbformat.v4.new_code_cell("SEED = 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("1 / 0"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "bad.ipynb")
    answer = made(
        str(tmp_path / "out"), str(tmp_path / "bad.ipynb"), "--budget", "smoke", "--cache", str(tmp_path / "c")
    )
    assert answer.returncode == 2
    last = answer.stderr.strip().splitlines()[-1]
    assert "bad failed, so there is no page of it: cell 2: ZeroDivisionError" in last
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_not_attached_is_told_before_anything_runs(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("sphinx_book_theme")
    import nbformat

    cell = nbformat.v4.new_markdown_cell("![A red sheet](attachment:a.png)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "bad.ipynb")  # without parameters: it cannot run
    answer = CliRunner().invoke(app, ["site", str(tmp_path / "out"), str(tmp_path / "bad.ipynb"), "--budget", "smoke"])
    assert answer.exit_code == 2
    assert "bad shows a.png, which is not attached to its cell" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_the_workflow_publishes_what_the_command_makes():
    import yaml

    flow = yaml.safe_load((places.repository() / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8"))
    assert flow[True] == {"release": {"types": ["published"]}, "workflow_dispatch": None}  # YAML reads `on` as true
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    assert any("environment.py site" in step.get("run", "") for step in steps)
    assert any(step.get("with", {}).get("path") == "runs/pages" for step in steps)


def test_a_title_breaks_within_code_only():
    name = '<code class="x.y"><span class="pre">{}</span></code>'
    page = '<p>{}</p><h1 id="a.b_c">{} of v. 2.0, e.g. <math><mn>0.5</mn></math><a href="a.html">#</a></h1>'
    made = building.with_breaks(page.format(name.format("a.b"), name.format("mlcourse.meta_gradients")))
    wanted = name.format("mlcourse.<wbr>meta_<wbr>gradients")
    assert made == page.format(name.format("a.b"), wanted)


def test_the_titles_of_the_reference_may_break(site):
    pages = list((site / "reference").glob("*_*.html"))
    assert len(pages) >= 3
    for page in pages:  # the first one is printed only
        assert "_<wbr>" in building.TITLE.findall(text(page))[-1][1], page.name


def test_the_styles_ask_for_no_icons_that_no_page_shows(site, tmp_path):
    faces = [face for path in site.rglob("*.css") for face in command.FONT.findall(text(path))]
    assert [face for face in faces if "fontawesome" in face] == []
    made = tmp_path / "made"
    made.mkdir()
    (made / "here.woff2").write_bytes(b"font")
    kept = "@font-face { font-family: A; src: url('here.woff2') }"
    (made / "a.css").write_text(kept + "@font-face{font-family:B;src:url(../gone.woff2)}p{color:red}")
    command.put(made, tmp_path / "out")
    assert text(tmp_path / "out" / "a.css") == kept + "p{color:red}"


def test_a_page_asks_nobody_for_a_guess(site):
    """A visitor of a page cannot answer: what was measured stands there alone."""
    assert "You made no guess" not in "".join(text(page) for page in (site / "notebooks").glob("[0-9]*.html"))
    assert "Measured: " in lesson(site, "05")


def test_quotes_of_code_stay_those_of_code(site):
    assert 'learned_rates="layer"' in html.unescape(text(site / "methods" / f"{methods.file_of('maml++')}.html"))
