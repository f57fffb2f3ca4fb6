"""Widgets in saved notebooks: what the outputs show is kept, and nothing else."""

import copy
import json
from types import SimpleNamespace

import pytest

from mlcourse.teaching.output import WIDGET
from mlcourse.teaching.saved_widgets import STATE, before_saving, keep_shown, states


def widget(**state):
    return {"model_name": "XModel", "model_module": "x", "model_module_version": "1", "state": state}


WIDGETS = {
    "box": widget(children=["IPY_MODEL_slider", "IPY_MODEL_image"], layout="IPY_MODEL_layout", own="box"),
    "slider": widget(value=3, layout="IPY_MODEL_layout", style={"deep": [{"er": "IPY_MODEL_style"}]}),
    "image": widget(value="<img>"),
    "layout": widget(),
    "style": widget(back="IPY_MODEL_slider"),
    "old": widget(children=["IPY_MODEL_older"]),
    "older": widget(),
}
SHOWN = {"box", "slider", "image", "layout", "style"}


def notebook(*shown, known=()):
    outputs = [{"output_type": "display_data", "data": {WIDGET: {"model_id": name}}, "metadata": {}} for name in shown]
    cells = [{"cell_type": "markdown", "source": "x", "metadata": {}}]
    cells += [{"cell_type": "code", "source": "x", "metadata": {}, "outputs": outputs}]
    made = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    if known:
        made["metadata"]["widgets"] = {STATE: {"state": {name: WIDGETS[name] for name in known}}}
    return made


@pytest.mark.parametrize(
    ("known", "before"),
    [(WIDGETS, ()), ((), WIDGETS), (["box", "old"], ["slider", "image", "layout", "style", "older"])],
    ids=["kernel lives", "kernel is gone", "some of each"],
)
def test_what_is_shown_is_kept_with_all_that_it_names(known, before):
    made = notebook("box", known=known)
    keep_shown(made, {name: WIDGETS[name] for name in before})
    assert set(states(made)) == SHOWN
    assert all(value == WIDGETS[name] for name, value in states(made).items())


def test_the_newer_state_wins():
    made = notebook("slider", known=["slider"])
    keep_shown(made, {"slider": widget(value=99)})
    assert states(made)["slider"]["state"]["value"] == 3


@pytest.mark.parametrize("shown", [(), ("unknown",), ("",)])
def test_without_a_widget_nothing_is_kept(shown):
    made = notebook(*shown, known=["old", "older"])
    keep_shown(made, WIDGETS)
    assert made["metadata"] == {}


def test_metadata_of_others_is_left_alone():
    made = notebook()
    made["metadata"] = {"kernelspec": {"name": "python3"}, "widgets": {"another/type": 1}}
    before = copy.deepcopy(made)
    keep_shown(made, WIDGETS)
    assert made == before


def test_the_hook_reads_the_file_that_is_replaced(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.ipynb").write_text(json.dumps(notebook("box", known=WIDGETS)), encoding="utf-8")
    manager = SimpleNamespace(root_dir=str(tmp_path))
    model = {"type": "notebook", "content": notebook("box")}
    before_saving(model=model, path="/sub/a.ipynb", contents_manager=manager)
    assert set(states(model["content"])) == SHOWN


@pytest.mark.parametrize("content", [None, "{", "[]", '{"metadata": []}', "\udcff"])
def test_the_hook_lives_with_any_file(tmp_path, content):
    if content is not None:
        (tmp_path / "a.ipynb").write_bytes(content.encode(errors="surrogateescape"))
    model = {"type": "notebook", "content": notebook("slider", known=["slider", "layout", "style"])}
    before_saving(model=model, path="a.ipynb", contents_manager=SimpleNamespace(root_dir=str(tmp_path)))
    assert set(states(model["content"])) == {"slider", "layout", "style"}


@pytest.mark.parametrize("model", [{"type": "file", "content": "x"}, {"type": "directory"}, {"type": "notebook"}])
def test_the_hook_leaves_other_things_alone(tmp_path, model):
    before = copy.deepcopy(model)
    before_saving(model=model, path="a", contents_manager=SimpleNamespace(root_dir=str(tmp_path)))
    assert model == before
