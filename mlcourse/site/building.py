"""Sphinx makes pages of the sources: its settings, and formulas as MathML, which browsers draw without a program."""

import io
import re
from pathlib import Path

from mlcourse import __version__
from mlcourse.commands.pages import mathml
from mlcourse.errors import CourseError
from mlcourse.site.markdown import slug
from mlcourse.site.sources import THEME
from mlcourse.teaching.stacks import START

NEEDS = "the site needs Sphinx and its theme: install them with pip install 'mlcourse[site]' (in a clone: '.[site]')"
SETTINGS = {
    "project": "Meta-learning for computer vision",
    "author": "The mlcourse authors",
    "copyright": "the mlcourse authors. Code: MIT licence; text and figures: CC BY 4.0",
    "version": __version__,
    "release": __version__,
    "language": "en",
    "extensions": ["myst_nb", "mlcourse.site.building"],
    "include_patterns": [
        "index.md",
        f"{START}.md",
        "docs/*.md",
        "notebooks/*.ipynb",
        "notebooks/README.md",
        "methods/*",
        "reference/*",
    ],
    "templates_path": [str(THEME / "templates")],
    "html_static_path": ["_static"],
    "html_css_files": ["site.css"],
    "html_js_files": [(name, {"defer": "defer"}) for name in ("stacks.js", "print.js")],
    "html_theme": "sphinx_book_theme",
    "html_title": "Meta-learning for computer vision",
    "html_theme_options": {
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
        "use_download_button": False,
        "use_fullscreen_button": False,
        "show_toc_level": 2,
        "home_page_in_toc": True,
        "navbar_persistent": [],
    },
    "html_context": {"default_mode": "auto"},
    "html_math_renderer": "mathml",
    "smartquotes": False,  # it takes the quotes of code for those of a sentence
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_show_sphinx": False,
    "html_show_search_summary": False,  # it would fetch the pages that it finds: from the file system nobody may
    "html_last_updated_fmt": None,
    "html_permalinks_icon": "#",
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_code_prompt_show": "Show the code",
    "nb_code_prompt_hide": "Hide the code",
    "myst_enable_extensions": ["amsmath", "colon_fence", "dollarmath"],
    "myst_dmath_double_inline": True,
    "myst_heading_anchors": 4,
    "myst_heading_slug_func": slug,
    "add_module_names": False,
    "python_use_unqualified_type_names": True,
    "toc_object_entries": False,
    "suppress_warnings": ["config.cache", "ref.python", "mystnb.unknown_mime_type", "misc.highlighting_failure"],
}
KNOWN = re.compile(r"document isn't included in any toctree")
CODE = re.compile(r'(?<=<span class="pre">)[\w.]+(?=</span>)')
TITLE = re.compile(r"(<h1\b[^>]*>)(.*?)(</h1>)", re.DOTALL)


def check_installed() -> None:
    """Raise CourseError, with the remedy, where Sphinx or its parts are missing."""
    try:
        import myst_nb  # noqa: F401
        import sphinx_book_theme  # noqa: F401
        from sphinx.application import Sphinx  # noqa: F401
    except ModuleNotFoundError:
        raise CourseError(NEEDS) from None


def build(sources: Path, out: Path, doctrees: Path, banner: str = "") -> list[str]:
    """Make the pages; return what Sphinx warns of, a line each.

    Args:
        sources: as `sources.write` left them.
        out: where the pages go.
        doctrees: what Sphinx keeps for the next time.
        banner: HTML that stands over each page; "" for none.

    Raises CourseError when Sphinx stops.
    """
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    said = io.StringIO()
    theme = SETTINGS["html_theme_options"] | {"announcement": banner}
    try:
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                sources,
                None,
                out,
                doctrees,
                "html",
                confoverrides=SETTINGS | {"html_theme_options": theme},
                status=None,
                warning=said,
                freshenv=True,
            )
            app.build()
    except SphinxError as error:
        raise CourseError(f"Sphinx could not make the site: {' '.join(str(error).split())}") from None
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).replace(f"{sources}/", "")
    return [line for line in plain.splitlines() if line.strip() and not KNOWN.search(line)]


def setup(app) -> dict:
    """What Sphinx calls: formulas become MathML, pictures wait until they come into sight."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("doctree-resolved", _lazy)
    app.connect("html-page-context", _titles_break)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}


def with_breaks(page: str) -> str:
    """A page whose title may break within code, behind a dot or an underscore: a phone is narrower than a name."""

    def title(found: re.Match) -> str:
        return found[1] + CODE.sub(lambda name: re.sub(r"([._])(?=\w)", r"\1<wbr>", name[0]), found[2]) + found[3]

    return TITLE.sub(title, page)


def _titles_break(app, name: str, template: str, context: dict, doctree) -> None:
    if "body" in context:
        context["body"] = with_breaks(context["body"])


def _inline(self, node) -> None:
    from docutils.nodes import SkipNode

    self.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def _block(self, node) -> None:
    from docutils.nodes import SkipNode

    self.body.append(f'<div class="math">{mathml(node.astext().strip(), "block")}</div>')
    raise SkipNode


def _lazy(app, doctree, name: str) -> None:
    from docutils import nodes

    for image in doctree.findall(nodes.image):
        image["loading"] = "lazy"
