"""The web page that `mlcourse run` writes, in a browser without a network."""

import nbformat
import pytest
from expecting import expect
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlcourse.commands import pages

pytestmark = pytest.mark.browser


@pytest.mark.skipif(pages.convert is None, reason="latex2mathml is not installed: run make env")
def test_formulas_are_drawn_and_solutions_are_folded_offline(chromium, tmp_path):
    hidden = new_code_cell("solution = 1", metadata={"jupyter": {"source_hidden": True}})
    text = new_markdown_cell(r"So $x_i$, and $$\frac{\alpha}{2} = \sum_{i=1}^B \mathcal{L}_i.$$")
    nbformat.write(new_notebook(cells=[text, hidden]), tmp_path / "01_small.ipynb")
    context = chromium.new_context(offline=True)
    try:
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages.write_html(tmp_path / "01_small.ipynb").as_uri())
        heights = page.evaluate("[...document.querySelectorAll('math')].map(one => one.getBoundingClientRect().height)")
        assert len(heights) == 2
        assert min(heights) > 5
        assert max(heights) > 25  # a fraction and a sum stand higher than a line
        assert [one for one in asked if not one.startswith(("file:", "data:"))] == []
        solution = page.get_by_text("solution = 1")
        expect(solution).to_be_hidden()
        page.get_by_text("Show the code").click()
        expect(solution).to_be_visible()
    finally:
        context.close()
