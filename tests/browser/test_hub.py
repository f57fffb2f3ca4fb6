"""A class in the browser: two students log in at once, run notebook 01, and one of them takes all memory."""

import json
import re

from expecting import PATIENCE, expect
from hub_helpers import HUB, WALLS, Hub

NOTEBOOK = "01_inner_and_outer_losses.ipynb"
HOG = "held = []\nwhile True:\n    held.append(bytearray(b'1') * 2**26)"
# As JupyterLab asks: with the page's own token
ASK = """async ([user, what, options]) => {
    const token = document.cookie.match(/_xsrf=([^;]*)/)[1];
    const answer = await fetch(`/user/${user}/api/${what}`, {headers: {'X-XSRFToken': token}, ...options});
    return [answer.status, answer.ok ? await answer.json() : null];
}"""


class Student:
    """Someone who logs in with a browser of their own, and works with mouse and keyboard."""

    def __init__(self, chromium, hub, name, password):
        self.name, self.base = name, hub.base
        self.page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.page.on("dialog", lambda dialog: dialog.accept())  # "leave this page?"
        self.page.goto(f"{hub.base}/hub/login")
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def open(self, notebook):
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/user/{self.name}/lab/tree/{notebook}?reset", timeout=PATIENCE)
        self.page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=PATIENCE)
        self.page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=PATIENCE)  # of this notebook

    def menu(self, title, entry):
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{title}$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{entry}$")).first.click()

    def ask(self, what, user=None, **options):
        """The status and the content of an answer of a student's server."""
        return self.page.evaluate(ASK, [user or self.name, what, options])

    def states(self):
        return [kernel["execution_state"] for kernel in self.ask("kernels")[1]]

    def begin(self):
        self.menu("Run", "Run All Cells")
        self.page.locator("#jp-main-statusbar", has_text="| Busy").wait_for(timeout=PATIENCE)

    def finish(self, notebook, seconds=300):
        """Wait until every cell has run, save, and return the cells as the server holds them."""
        idle = 0
        for _ in range(seconds):
            self.page.wait_for_timeout(1000)
            idle = idle + 1 if set(self.states()) == {"idle"} else 0  # between two cells it is idle, too
            if idle == 4:
                self.menu("File", "Save Notebook")
                self.page.wait_for_timeout(4000)
                status, file = self.ask(f"contents/{notebook}")
                code = (
                    [cell for cell in file["content"]["cells"] if cell["cell_type"] == "code"] if status == 200 else []
                )
                if code and all(one["execution_count"] for one in code):
                    return code
                idle = 0
        raise AssertionError(f"{notebook} of {self.name} does not end")


@HUB
@WALLS
def test_two_students_run_a_notebook_at_once_and_each_sees_only_their_own_work(chromium, tmp_path):
    with Hub(tmp_path, "anna", "bo", memory=3) as hub:
        words = hub.passwords()
        stranger = Student(chromium, hub, "anna", words["bo"])
        stranger.page.get_by_text("Invalid username or password").wait_for()
        anna, bo = (Student(chromium, hub, name, words[name]) for name in ("anna", "bo"))
        for one in (anna, bo):
            one.page.wait_for_url(f"**/user/{one.name}/lab/**", timeout=PATIENCE)
        for one in (anna, bo):
            one.open(NOTEBOOK)
        anna.begin()
        bo.begin()
        for one in (anna, bo):
            cells = one.finish(NOTEBOOK)
            assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
            expect(one.page.locator(".jp-OutputArea-output img").first).to_be_visible()
        bo.page.screenshot(path=tmp_path / "bo.png")

        hog = json.dumps({"type": "notebook", "content": notebook(HOG)})
        assert anna.ask("contents/mine.ipynb", method="PUT", body=hog)[0] == 201
        assert anna.ask("contents/mine.ipynb", user="bo")[0] in (403, 404)
        assert bo.ask("contents/mine.ipynb")[0] == 404
        anna.open("mine.ipynb")
        anna.begin()
        anna.page.get_by_text("Kernel Restarting").first.wait_for(timeout=PATIENCE)
        bo.begin()  # the other goes on
        assert all(cell["execution_count"] for cell in bo.finish(NOTEBOOK))
    with hub:  # started again: the work is there
        anna = Student(chromium, hub, "anna", words["anna"])
        anna.page.wait_for_url("**/user/anna/lab/**", timeout=PATIENCE)
        assert anna.ask("contents/mine.ipynb")[1]["content"]["cells"][0]["source"] == HOG


def notebook(source):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
