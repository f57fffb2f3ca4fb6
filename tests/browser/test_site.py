"""The site in a headless browser, from the file system: axe-core's faults, the keyboard, and what the pages ask for.

Every page is looked at in the widths of a phone, a tablet and a desktop, light and dark, between them; the index and a
lesson in all six ways.
"""

import contextlib
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from expecting import PATIENCE
from site_helpers import small_site

from mlcourse.site.sources import THEME
from mlcourse.teaching import stacks, widgets

pytestmark = pytest.mark.browser

WIDTHS, LOOKS = (360, 768, 1280), ("light", "dark")
ALL_WAYS = list(product(WIDTHS, LOOKS))
TWO_WAYS = [(360, "dark"), (1280, "light")]
LESSON = "notebooks/05_meta_gradients_by_hand"
LOOKED_AT = [(name, *way) for name in ("index", LESSON) for way in ALL_WAYS]
LOOKED_AT += [
    (name, *way)
    for name in (
        "notebooks/00_start_here",
        "start",
        "docs/results",
        "docs/glossary",
        "methods/maml",
        "reference/statistics",
        "search",
    )
    for way in TWO_WAYS
]
ASK = """() => axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    .then(found => found.violations.filter(one => ["serious", "critical"].includes(one.impact))
        .flatMap(one => one.nodes.map(node => one.id + ": " + node.html.slice(0, 200))))"""


@pytest.fixture(scope="module")
def axe():
    module = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed: pip install -e '.[test]'")
    return (Path(module.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def opened(chromium):
    """`opened(path)` shows a page of the file system; a request to anything but files fails the test."""
    foreign: list[str] = []
    errors: list[str] = []
    with contextlib.ExitStack() as stack:

        def show(path: Path, width: int = 1280, look: str = "light"):
            # a colour on its way from the light look to the dark one is no colour of the page
            still = {"color_scheme": look, "reduced_motion": "reduce"}
            context = chromium.new_context(viewport={"width": width, "height": 900}, **still)
            stack.callback(context.close)
            page = context.new_page()
            page.on("request", lambda request: foreign.append(request.url) if _is_foreign(request.url) else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(path.resolve().as_uri(), timeout=PATIENCE)
            return page

        yield show
    assert foreign == []
    assert errors == []


def _is_foreign(address: str) -> bool:
    return not address.startswith(("file:", "data:", "blob:"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return small_site(tmp_path_factory)


@pytest.mark.parametrize(("name", "width", "look"), LOOKED_AT)
def test_no_serious_fault(site, opened, axe, name, width, look):
    page = opened(site / f"{name}.html", width, look)
    page.add_script_tag(content=axe)
    assert page.evaluate(ASK) == []
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, "the whole page scrolls sideways"
    assert page.evaluate("document.documentElement.dataset.theme") == look


# The title, and its words that lie on more than one line
BROKEN = """() => {
    const title = [...document.querySelectorAll("h1")].find(one => one.getBoundingClientRect().height > 0);
    const words = [], walker = document.createTreeWalker(title, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(walker.currentNode);
        const lines = new Set([...range.getClientRects()].map(one => Math.round(one.top)));
        if (lines.size > 1 && !walker.currentNode.data.trim().includes(" ")) words.push(walker.currentNode.data);
    }
    return [title.textContent, words];
}"""


def test_no_title_of_the_reference_breaks_within_a_word_on_a_phone(site, opened):
    for path in sorted((site / "reference").glob("*_*.html")):
        title, broken = opened(path, 360).evaluate(BROKEN)
        assert path.stem in title
        assert broken == []
    page = opened(site / "reference" / "meta_optimization.html", 360)
    page.evaluate("document.querySelectorAll('wbr').forEach(one => one.remove()); document.body.normalize()")
    assert page.evaluate(BROKEN)[1], "the test finds a word that is broken"


@pytest.mark.parametrize(
    ("put_in", "told"),
    [
        ('<p style="color: #999; background: #fff">too pale to read</p>', "color-contrast"),
        ('<img src="a.png">', "image-alt"),
        ('<input type="range">', "label"),
    ],
)
def test_a_fault_that_is_put_in_is_found(site, opened, axe, tmp_path, put_in, told):
    copy = shutil.copytree(site, tmp_path / "copy", ignore=shutil.ignore_patterns("pictures", "reference"))
    text = (copy / "index.html").read_text(encoding="utf-8")
    (copy / "index.html").write_text(text.replace("<p>", put_in + "<p>", 1), encoding="utf-8")
    page = opened(copy / "index.html")
    page.add_script_tag(content=axe)
    found = page.evaluate(ASK)
    assert len(found) == 1, found
    assert found[0].startswith(f"{told}: ")


# what is wider than its place and neither wraps nor has a bar of its own; printed text wraps
CUT = """() => [...document.querySelectorAll(".bd-article *")].filter(one => {
    if (one.closest("svg, math, .stack-said, .sr-only") || !one.clientWidth) return false;
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
    const wide = one.scrollWidth > one.clientWidth + 1;
    return wide && getComputedStyle(one).display !== "inline"
        && (scrolls ? one.closest(".cell_output .stream") : !one.parentElement.closest(SCROLLERS));
}).map(one => one.outerHTML.slice(0, 200))""".replace("SCROLLERS", "'pre, .pst-scrollable-table-container, .output'")
# tables whose last column one cannot bring into sight, or not with the keyboard
LOST = """() => [...document.querySelectorAll(".bd-article table")].filter(one => one.clientWidth).filter(one => {
    const box = one.closest(".pst-scrollable-table-container, .output");
    if (!box) return true;
    box.scrollLeft = 1e6;
    const [edge, right] = [box, one.rows[0].lastElementChild].map(some => some.getBoundingClientRect().right);
    return right > edge + 1 || edge > innerWidth || (box.scrollLeft > 0 && box.tabIndex !== 0);
}).map(one => one.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["notebooks/00_start_here", LESSON, "docs/results", "docs/glossary", "start"])
def test_nothing_is_cut(site, opened, name, width):
    page = opened(site / f"{name}.html", width)
    assert page.evaluate(CUT) == []
    assert page.evaluate(LOST) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_wide_output_and_a_wide_table_are_found(site, opened, width):
    page = opened(site / f"{LESSON}.html", width)
    page.add_style_tag(content=".bd-article .cell_output .output.stream pre { white-space: pre !important }")
    page.evaluate("document.querySelector('.cell_output .stream pre').append('wide '.repeat(200))")
    assert len(page.evaluate(CUT)) >= 1
    table = "<table><tr>" + "<td>unbreakable</td>" * 40 + "</tr></table>"
    page.evaluate(
        "table => document.querySelector('.bd-article section').insertAdjacentHTML('beforeend', table)", table
    )
    assert len(page.evaluate(LOST)) == 1


def test_the_sign_of_the_search_leaves_the_words_free(site, opened):
    page = opened(site / "search.html")
    sign = page.locator("main form.bd-search .fa-magnifying-glass").last.bounding_box()
    words = page.locator("main form.bd-search input[name=q]").last.bounding_box()
    assert sign["x"] + sign["width"] <= words["x"]


SHOWN = """() => [...document.querySelector(".stack-frames").children].map((one, k) => one.hidden ? -1 : k)
    .filter(k => k >= 0)"""


def test_the_keyboard_moves_a_widget(site, opened):
    page = opened(site / f"{LESSON}.html")
    (before,) = page.evaluate(SHOWN)
    slider = page.locator(".stack input").last
    page.locator(".stack input").first.focus()
    page.keyboard.press("Tab")  # from one control to the next, as a person goes
    assert slider.evaluate("one => one === document.activeElement")
    page.keyboard.press("ArrowRight")
    (after,) = page.evaluate(SHOWN)
    assert after == before + 1  # the last control moves fastest
    words = slider.get_attribute("aria-valuetext")
    assert slider.evaluate("one => one.nextElementSibling.textContent") == words
    picture = page.locator(".stack-frames > div:not([hidden]) img")
    page.wait_for_function(
        "() => document.querySelector('.stack-frames > div:not([hidden]) img').naturalWidth > 0", timeout=PATIENCE
    )
    assert page.locator(".stack-said").inner_text() == picture.get_attribute("alt")
    page.locator(".stack input").first.focus()
    page.keyboard.press("End")
    (far,) = page.evaluate(SHOWN)
    assert far > after
    page.locator(".stack button").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(SHOWN) == [before]


def test_lists_move_together_and_sliders_alone(opened, tmp_path):
    wishes = {"a": (1, 3, 1, 2), "b": ["x", "y"], "c": (7, 9, 1, 7)}
    axes = stacks.stack_of({name: widgets.control(name, wish) for name, wish in wishes.items()}).axes
    stack = stacks.Stack([replace(axis, alone=axis.slides) for axis in axes])
    program = (THEME / "static" / "stacks.js").read_text(encoding="utf-8")
    body = stacks.page(stack, lambda values: f"<p>{values['a']}{values['b']}{values['c']}</p>")
    (tmp_path / "a.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{body}<script>{program}</script>', "utf-8")
    page = opened(tmp_path / "a.html")
    shown = page.locator(".stack-frames > div:not([hidden])")
    first, last = page.locator("input").first, page.locator("input").last
    assert shown.inner_text() == "2x7"
    page.locator("select").select_option("y")
    assert shown.inner_text() == "2y7"
    last.press("End")
    assert shown.inner_text() == "2y9"  # what was chosen from the list stays
    first.press("End")
    assert shown.inner_text() == "3y7"  # the other slider goes back
    first.press("Home")
    page.locator("select").select_option("x")
    assert shown.inner_text() == "1x7"
    last.press("ArrowRight")
    assert shown.inner_text() == "2x8"


@pytest.mark.parametrize("every", [True, False])
def test_each_value_of_a_control_shows_its_picture(opened, tmp_path, every):
    made = {"a": widgets.control("a", (1, 5, 1, 3)), "b": widgets.control("b", ["x", "y", "z"])}
    stack = stacks.Stack([replace(axis, alone=not every) for axis in stacks.stack_of(made).axes])
    program = (THEME / "static" / "stacks.js").read_text(encoding="utf-8")
    body = stacks.page(stack, lambda values: f"<p>{values['a']}{values['b']}</p>")
    (tmp_path / "a.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{body}<script>{program}</script>', "utf-8")
    page = opened(tmp_path / "a.html")
    shown = page.locator(".stack-frames > div:not([hidden])")
    assert shown.inner_text() == "3x"
    for word in ("x", "y", "z"):
        page.locator("select").select_option(word)
        assert shown.inner_text() == f"3{word}"
        for number in ("5", "4", "3", "2", "1"):
            page.locator("input").press("End" if number == "5" else "ArrowLeft")
            assert shown.inner_text() == (f"{number}{word}" if every else f"{number}x")
        page.locator("button").click()
        assert shown.inner_text() == "3x"


def test_the_recorded_pad_shows_another_query_and_set(site, opened):
    page = opened(site / "notebooks" / "00_start_here.html", 360)
    assert page.evaluate(SHOWN) == [0]
    page.locator(".stack select").first.select_option("Runes")
    page.locator(".stack input").first.press("ArrowRight")
    assert page.evaluate(SHOWN) == [6]  # the second of five queries of the second set
    assert page.locator(".stack-said").first.inner_text().startswith("Drawing pad with the sample drawings Runes")


def test_without_programs_one_picture_is_shown_and_no_control(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / f"{LESSON}.html").resolve().as_uri())
    assert page.locator(".stack-frames img:visible").count() == 1
    assert page.locator(".stack-controls").is_hidden()
    context.close()


def test_the_search_finds_a_term_without_a_server(site, opened):
    page = opened(site / "search.html")
    page.locator("form.bd-search input[name=q]").last.fill("hypergradient")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a", timeout=PATIENCE)
    page.locator("#search-results li a").first.click()
    page.wait_for_load_state()
    assert "hypergradient" in page.locator("main").inner_text().lower()


def test_a_solution_opens_by_a_click(site, opened):
    page = opened(site / f"{LESSON}.html")
    solution = page.locator("details:has-text('def solution_')").first
    assert not solution.locator("pre").is_visible()
    solution.locator("summary").click()
    assert solution.locator("pre").is_visible()


PAPER = 680  # the width of A4 between its margins, in the browser's points
PRINT = """() => dispatchEvent(new Event("beforeprint"))"""
PRINTED = """() => dispatchEvent(new Event("afterprint"))"""
# what is wider than the paper: a bar cannot be moved there
OVER = """() => [...document.querySelectorAll(".bd-article *")].filter(one => one.clientWidth
    && !one.closest("svg, math, .stack-said, .sr-only") && getComputedStyle(one).display !== "inline"
    && (one.scrollWidth > one.clientWidth + 1 || one.getBoundingClientRect().right > innerWidth + 1)
).map(one => one.outerHTML.slice(0, 200))"""


def on_paper(page):
    page.emulate_media(media="print")
    page.evaluate(PRINT)
    return page


@pytest.mark.parametrize("name", ["notebooks/00_start_here", LESSON, "docs/results", "methods/maml"])
def test_nothing_is_cut_on_paper(site, opened, name):
    assert on_paper(opened(site / f"{name}.html", PAPER)).evaluate(OVER) == []


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_folded_is_printed_and_a_dark_page_is_printed_light(site, opened, look):
    page = opened(site / f"{LESSON}.html", look=look)
    solution = page.locator("details:has-text('def solution_') pre").first
    hint = page.locator(".bd-article details:has-text('Hint') > :not(summary)").first
    on_paper(page)
    assert solution.is_visible()
    assert hint.is_visible()
    assert solution.evaluate("one => getComputedStyle(one.closest('details').children[1]).animationName") == "none"
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate(PRINTED)
    page.emulate_media(media="screen")
    assert page.locator(".bd-article details[open]").count() == 0
    assert page.evaluate("document.documentElement.dataset.theme") == look


def test_paper_shows_what_a_widget_stands_at(site, opened):
    page = on_paper(opened(site / f"{LESSON}.html"))
    panel = page.locator(".stack-controls").first
    assert panel.locator("output").first.is_visible()
    assert not panel.locator("input").first.is_visible()
    assert not panel.locator("button").is_visible()


def test_the_two_columns_of_the_contents_do_not_touch(site, opened):
    contents = on_paper(opened(site / f"{LESSON}.html", PAPER)).locator("#jb-print-toc .section-nav").first
    asked = "one => ['columnCount', 'columnGap', 'fontSize'].map(name => getComputedStyle(one)[name])"
    columns, gap, size = contents.evaluate(asked)
    assert columns == "2"
    assert float(gap.removesuffix("px")) > 2 * float(size.removesuffix("px"))


def test_the_end_is_not_printed(site, opened):
    page = opened(site / f"{LESSON}.html")
    assert page.locator("#the-end").is_visible()
    page = on_paper(page)
    assert not page.locator("#the-end").is_visible()
    listed = page.locator("#jb-print-toc a")
    shown = [one.inner_text() for one in listed.all() if one.is_visible()]
    assert len(shown) > 5
    assert not any("The end" in one for one in shown)


def test_code_is_not_torn_apart_from_its_frame(site, opened):
    page = on_paper(opened(site / f"{LESSON}.html"))
    code = page.locator(".cell_input").first
    assert code.evaluate("one => getComputedStyle(one).breakInside") == "avoid"
    # what is longer than a page breaks inside; else its frame stays behind, empty
    inner = "one => [...one.querySelectorAll('div, pre')].map(some => getComputedStyle(some).breakInside)"
    assert set(code.evaluate(inner)) == {"auto"}


@pytest.mark.parametrize("width", [360, 1280])
def test_a_formula_stands_in_the_middle(site, opened, width):
    page = opened(site / f"{LESSON}.html", width)
    off = page.evaluate("""() => [...document.querySelectorAll("div.math > math")].map(math => {
        const boxes = [math.firstElementChild, math.closest("div.math")].map(one => one.getBoundingClientRect());
        const [inner, outer] = boxes;
        return inner.width > outer.width ? 0 : (inner.left + inner.right - outer.left - outer.right) / 2;
    })""")
    assert len(off) > 3
    assert max(map(abs, off)) < 8, off


def test_a_printed_page_holds_what_was_folded(site, tmp_path):
    from mlcourse.errors import CourseError
    from mlcourse.site import pdf

    try:
        program = pdf.browser()
    except CourseError as error:
        pytest.skip(str(error))
    (tmp_path / "a.webp").write_bytes(next((site / "_static" / "pictures").glob("*.webp")).read_bytes())
    style, code = ((THEME / "static" / name).read_text(encoding="utf-8") for name in ("site.css", "print.js"))
    body = '<article class="bd-article"><details><summary>more</summary><img src="a.webp" alt="a"></details></article>'
    text = f'<!DOCTYPE html><meta charset="utf-8"><style>{style}</style>{body}<script>{code}</script>'
    (tmp_path / "a.html").write_text(text, encoding="utf-8")
    pdf.write(tmp_path / "a.html", tmp_path / "a.pdf", program)
    content = (tmp_path / "a.pdf").read_bytes()
    assert content.count(b"/Subtype /Image") >= 1
    assert b"/MediaBox [0 0 594" in content or b"/MediaBox [0 0 595" in content  # A4


def test_a_lesson_is_printed_with_its_pictures(site, tmp_path):
    from mlcourse.errors import CourseError
    from mlcourse.site import pdf

    try:
        program = pdf.browser()
    except CourseError as error:
        pytest.skip(str(error))
    pdf.write(site / f"{LESSON}.html", tmp_path / "05.pdf", program)
    content = (tmp_path / "05.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    page = (site / f"{LESSON}.html").read_text(encoding="utf-8")
    visible = page.count("<img") - page.count("<div hidden><img")
    assert content.count(b"/Subtype /Image") >= visible
