"""An executed notebook as a web page that needs no network: formulas are MathML, which browsers draw themselves."""

import html
import re
from functools import cache
from pathlib import Path

from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from mlcourse import files

try:
    from latex2mathml.converter import convert
except ModuleNotFoundError:  # an environment from before the course needed it: `make env` brings it up to date
    convert = None

# What the library lacks, as a pattern, and what it has of the same meaning.
SAME = {r"\\arg(?![a-zA-Z])": r"\\operatorname{arg}", r"\{aligned\}": "{split}"}

# JupyterLab's page without the programs that it fetches; code that is folded in the notebook is folded here, too.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}
{%- if resources.untrusted -%}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
{%- endif -%}
{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- if not resources.formulas_are_drawn -%}{{ super() }}{%- endif -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block input -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details><summary>Show the code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
"""


def write_html(executed: Path) -> Path:
    """Write the executed notebook as a web page beside it."""
    target = executed.with_suffix(".html")
    files.write_text(target, page(files.read_notebook(executed), executed.stem))
    return target


def page(notebook: NotebookNode, name: str, *, untrusted: bool = False) -> str:
    """A notebook with its outputs as a web page.

    Args:
        notebook: changed: the state of its widgets is taken away.
        name: its title.
        untrusted: of somebody else: the browser is told to run nothing and to fetch nothing.
    """
    # With the widgets' state, nbconvert shows views that want a network instead of the pictures that stand for them.
    notebook.metadata.pop("widgets", None)
    exporter = Page(raw_template=TEMPLATE)
    # A progress bar writes over its own line; a page would show each of its hundred states below the last.
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    about = {"formulas_are_drawn": convert is not None, "untrusted": untrusted, "metadata": {"name": name}}
    return exporter.from_notebook_node(notebook, about)[0]


class Page(HTMLExporter):
    """nbconvert's web page, with `Formulas` in place of formulas that wait for a program."""

    @pass_context
    def markdown2html(self, context, source):
        if convert is None:
            return super().markdown2html(context, source)
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(renderer=Formulas(escape=False, attachments=attachments)).render(source)


class Formulas(IPythonRenderer):
    """Markdown whose formulas become MathML."""

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")


@cache
def mathml(formula: str, display: str) -> str:
    """A formula of TeX as MathML; one that is not understood is shown as it was typed.

    Args:
        formula: TeX without its dollars.
        display: "block" or "inline".
    """
    known = formula
    for lacking, same in SAME.items():
        known = re.sub(lacking, same, known)
    try:
        made = convert(known, display=display)
    except Exception:  # the library's own errors have no common class, and some are Python's
        made = ""
    if not made or re.search(r">[^<]*\\[a-zA-Z]|>&<", made):
        return f"<code>{html.escape(formula, quote=False)}</code>"
    return made
