"""What `mlcourse site` finds wrong in pages: each fault, put in by hand, is one line; pages without one give none."""

import pytest

from mlcourse.site import checking

HEAD = '<!DOCTYPE html><html lang="en"><head><title>A</title><link rel="stylesheet" href="look.css"></head>'
GOOD = HEAD + (
    '<body><h1 id="top">A</h1><a href="b.html#there">b</a> <a href="#top">up</a> <a href="https://arxiv.org/abs/1">paper</a>'
    '<a href="mailto:a@b.org">mail</a><img src="a.png" alt="An a"><svg role="img" aria-label="A line"></svg>'
    '<img src="data:image/png;base64,AAAA" alt="inside"><link rel="canonical" href="https://example.org/a.html">'
    '<script src="move.js"></script></body></html>'
)


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1><a href="sub/c.html">c</a>')
    (tmp_path / "sub" / "c.html").write_text('<a href="../a.html#top">a</a><img src="../a.png" alt="An a">')
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "look.css").write_text("p { background: url('a.png') } /* https://example.org */")
    (tmp_path / "move.js").write_text("// see https://example.org\nconst about = 'https://example.org';")
    return tmp_path


def test_good_pages_have_no_fault(pages):
    assert checking.faults(pages) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("b.html#there", "gone.html", "the link gone.html leads nowhere"),
        ("b.html#there", "b.html#gone", "there is no place gone"),
        ("#top", "#nowhere", "there is no place nowhere"),
        ("b.html#there", "../outside.html", "leads nowhere"),
        (' alt="An a"', "", "a picture without a text"),
        (' alt="An a"', ' alt=" "', "a picture without a text"),
        (' aria-label="A line"', "", "a picture without a text"),
        ('src="a.png"', 'src="gone.png"', "asks for gone.png"),
        ('src="a.png"', 'src="https://example.org/a.png"', "asks another host"),
        ('src="a.png"', 'src="a.png" srcset="a.png 1x, //example.org/b.png 2x"', "asks another host"),
        ('href="look.css"', 'href="https://example.org/look.css"', "asks another host"),
        ('src="move.js"', 'src="//example.org/move.js"', "asks another host"),
        ("<body>", '<body style="background: url(http://example.org/a.png)">', "asks another host"),
        ("<body>", "<body><style>@import 'https://example.org/a.css';</style>", "asks another host"),
        ("<body>", '<body><iframe src="https://example.org"></iframe>', "asks another host"),
    ],
)
def test_each_fault_is_told(pages, before, after, told):
    assert before in GOOD
    (pages / "a.html").write_text(GOOD.replace(before, after, 1))
    found = checking.faults(pages)
    assert len(found) == 1, found
    assert told in found[0]
    assert found[0].startswith("a.html: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("look.css", "@import 'https://example.org/a.css';"),
        ("look.css", "@font-face { src: url(//example.org/a.woff2) }"),
        ("move.js", "fetch('https://example.org/a.json')"),
        ("move.js", "import('//example.org/a.js')"),
        ("move.js", "new WebSocket(`https://example.org`)"),
    ],
)
def test_styles_and_programs_ask_no_other_host(pages, name, text):
    (pages / name).write_text(text)
    assert [line.split(":")[0] for line in checking.faults(pages)] == [name]


def test_the_weight_is_that_of_the_page_and_what_it_loads(pages):
    (pages / "look.css").write_text("@font-face { src: url(a.woff2) } @font-face { src: url(gone.woff2) }")
    (pages / "a.woff2").write_bytes(bytes(1000))
    wanted = sum((pages / name).stat().st_size for name in ("a.html", "look.css", "move.js", "a.woff2"))
    assert checking.weight(pages / "a.html") == wanted


def test_a_style_that_asks_for_what_is_not_there_is_told(tmp_path):
    (tmp_path / "index.html").write_text("<p>a</p>")
    (tmp_path / "here.woff2").write_bytes(b"font")
    style = "@font-face{{src:url({})}} a {{ background: url(data:image/png;base64,AA) }}"
    (tmp_path / "a.css").write_text(style.format("here.woff2"))
    assert checking.faults(tmp_path) == []
    (tmp_path / "a.css").write_text(style.format("gone/fa.woff2"))
    assert checking.faults(tmp_path) == ["a.css: asks for gone/fa.woff2, which is not there"]
