"""The state of widgets in a notebook that JupyterLab saves, so that a reopened notebook shows what it showed.

JupyterLab saves the state of those widgets only whose kernel lives. So a notebook that was reopened, and saved again
before its cells have run, would lose its widgets ("Error displaying widget: model not found"); and one whose cell ran
twenty times would keep twenty. Here the server keeps, at each saving, what the outputs show, and nothing else.
"""

import json
from pathlib import Path

from mlcourse.teaching.output import WIDGET

STATE = "application/vnd.jupyter.widget-state+json"
REFERENCE = "IPY_MODEL_"  # how the state of one widget names another


def before_saving(*, model: dict, path: str, contents_manager, **_) -> None:
    """Complete the widgets of a notebook that is about to be saved: a hook of Jupyter Server's contents manager.

    Args:
        model: what is going to be saved; its notebook is changed in place.
        path: where, in the server's root folder.
        contents_manager: whose hook this is.

    """
    if model.get("type") == "notebook" and isinstance(model.get("content"), dict):
        keep_shown(model["content"], _saved(Path(contents_manager.root_dir) / path.strip("/")))


def keep_shown(notebook: dict, before: dict[str, dict]) -> None:
    """Give the notebook the state of all widgets that its outputs show.

    Args:
        notebook: a notebook as JSON; its metadata is changed in place.
        before: states by the widget's id, for those that the notebook has not.

    """
    metadata = notebook.setdefault("metadata", {})
    known = {**before, **states(notebook)}
    kept: dict[str, dict] = {}
    waiting = _shown(notebook)
    while waiting:
        name = waiting.pop()
        if name in known and name not in kept:
            kept[name] = known[name]
            waiting += _named(known[name].get("state", {}))
    if kept:
        metadata["widgets"] = {STATE: {"state": kept, "version_major": 2, "version_minor": 0}}
    elif STATE in metadata.get("widgets", {}):
        del metadata["widgets"]


def states(notebook: dict) -> dict[str, dict]:
    """The saved states of a notebook, by the widget's id."""
    return notebook.get("metadata", {}).get("widgets", {}).get(STATE, {}).get("state", {})


def _shown(notebook: dict) -> list[str]:
    """The ids of the widgets that outputs show."""
    outputs = [output for cell in notebook.get("cells", []) for output in cell.get("outputs", [])]
    views = [output.get("data", {}).get(WIDGET, {}) for output in outputs]
    return [view["model_id"] for view in views if view.get("model_id")]


def _named(value) -> list[str]:
    """The ids that a state names, in any depth."""
    if isinstance(value, str):
        return [value.removeprefix(REFERENCE)] if value.startswith(REFERENCE) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for one in inner for name in _named(one)]


def _saved(file: Path) -> dict[str, dict]:
    """The states in the file as it is; none for a file that is missing or no notebook."""
    try:
        return states(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return {}
