"""The lessons: one folder per notebook, with its checks, its pictures and what only this lesson uses.

A lesson never imports another one. What two lessons share lives in `teaching`, or in the library.
"""

import importlib
import pkgutil

from mlcourse.teaching.checks import Check


def every_check() -> dict[str, Check]:
    """All checks of all lessons by name: "losses.sgd_step" and so on."""
    found = {}
    for lesson in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{lesson.name}.checks")
        for name, value in vars(module).items():
            if isinstance(value, Check):
                found[f"{lesson.name}.{name}"] = value
    return found
