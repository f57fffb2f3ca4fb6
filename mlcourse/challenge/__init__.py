"""The challenge: one learner of one's own, on hidden tasks, under a budget, and one score card (`docs/challenge.md`).

`run_submission` does all of it. `submissions` reads what a person gives, `domains` draws the hidden episodes, `child`
is the process in which the learner runs (with `guard`, `counting` and `tasks`), `exchange` speaks with it and trusts
nothing that it says, `scoring` makes figures of the answers, and `card` keeps, writes and draws them.
"""

import importlib

_PLACES = {"Budget": "rules", "Card": "card", "Refused": "exchange", "draw_card": "card", "run_submission": "running"}

__all__ = ["Budget", "Card", "Refused", "draw_card", "run_submission"]


def __getattr__(name: str):
    # late on purpose: the process of a submission starts from here, and needs little of this
    if name not in _PLACES:
        raise AttributeError(f"module 'mlcourse.challenge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mlcourse.challenge.{_PLACES[name]}"), name)
