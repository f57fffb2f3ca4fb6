"""Programs beside the package (data/make_*.py, docs/make_*.py), read as modules."""

import importlib.util
import sys
from types import ModuleType

from mlcourse import places


def program(path: str) -> ModuleType:
    """`program("data/make_faces.py")`: the program, read anew."""
    file = places.repository() / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
