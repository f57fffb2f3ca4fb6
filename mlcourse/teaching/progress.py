"""What a learner has done: guesses and passed checks, kept in `work/progress.json`.

The file is written in one piece and under a lock, so two notebooks that are open at once do not lose each other's
entries. Keeping progress never stops a lesson: where the file cannot be written, one line says so.
"""

import html
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import filelock

from mlcourse import files, places
from mlcourse.errors import CourseError

NO_GUESS = "no guess"
LOCK_SECONDS = 5.0

_told: set[str] = set()  # what was said once is not said again


def path() -> Path:
    """The file: `progress.json` in the learner's folder."""
    return places.work() / "progress.json"


def passes() -> list[dict]:
    """The passed exercises, sorted: dicts with `exercise` ("01.2"), `title` and `when` (ISO 8601, UTC)."""
    entries = _read().get("passes", {})
    return [{**entry, "exercise": key} for key, entry in sorted(entries.items()) if isinstance(entry, dict)]


def guesses() -> list[dict]:
    """The guesses, sorted: dicts with `key` ("01.p1"), `question`, `choice` and `when`."""
    entries = _read().get("guesses", {})
    return [{**entry, "key": key} for key, entry in sorted(entries.items()) if isinstance(entry, dict)]


def record_pass(exercise: str, title: str) -> None:
    """Keep that a check passed. The first time counts."""
    _change(lambda all_: all_.setdefault("passes", {}).setdefault(exercise, {"title": title, "when": _now()}))


def record_guess(key: str, question: str, choice: str) -> None:
    """Keep a guess; `NO_GUESS` takes an earlier one back."""

    def change(all_: dict) -> None:
        entries = all_.setdefault("guesses", {})
        if choice == NO_GUESS:
            entries.pop(key, None)
        else:
            entries[key] = {"question": question, "choice": choice, "when": _now()}

    _change(change)


def guess(key: str) -> str | None:
    """The choice kept for the question `key`, or None."""
    entry = _read().get("guesses", {}).get(key)
    return entry.get("choice") if isinstance(entry, dict) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read() -> dict:
    """What is in the file. A damaged file is put aside, and said so."""
    file = path()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(found.get(k, {}), dict) for k in ("passes", "guesses")):
            return found
        problem = "it does not hold passes and guesses"
    except FileNotFoundError:
        return {}
    except OSError as error:
        _say_once(f"Your progress in {file} cannot be read ({error.strerror}); the lesson goes on without it.")
        return {}
    except ValueError as error:  # not JSON, or not text
        problem = str(error)
    aside = _unused(file)
    try:
        file.replace(aside)
    except OSError:
        aside = file
    _say_once(f"Your progress file is damaged ({problem}). It is kept as {aside}; a new one is begun.")
    return {}


def _unused(file: Path) -> Path:
    number = 1
    while (aside := file.with_name(f"progress.damaged-{number}.json")).exists():
        number += 1
    return aside


def _change(change: Callable[[dict], object]) -> None:
    """Read, change and write the file while no other notebook does."""
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_name(".progress.lock"), timeout=LOCK_SECONDS):
            found = _read()
            change(found)
            files.write_json(file, found)
    except (OSError, filelock.Timeout) as error:
        reason = "another program holds it" if isinstance(error, filelock.Timeout) else error.strerror
        _say_once(f"Your progress cannot be kept in {file} ({reason}); the lesson goes on without it.")


def _say_once(message: str) -> None:
    if message not in _told:
        _told.add(message)
        print(message)


# ---- predict, then run ----


def predict(question: str, choices: Sequence[str], key: str) -> None:
    """Ask for a guess before a result is shown.

    Args:
        question: one sentence.
        choices: two or more answers; "no guess" is put before them and is the default.
        key: "01.p1", unique in the course: the guess is kept under it, and shown when the cell runs again.
    """
    Prediction(question, choices, key).show()


class Prediction:
    """The widget behind `predict`: `.buttons` (the choices), `.box` (the whole), `.text` (without widgets)."""

    def __init__(self, question: str, choices: Sequence[str], key: str):
        import ipywidgets  # late: `mlcourse progress` reads this module and needs no widget

        from mlcourse.teaching.widgets import Narrator

        if len(set(choices)) < 2 or len(set(choices)) < len(choices) or NO_GUESS in choices:
            raise CourseError(
                f"choices of {key} are {list(choices)!r}; pass two or more different ones, none {NO_GUESS!r}"
            )
        earlier = guess(key)
        self.question, self.choices, self.key = question, list(choices), key
        self.buttons = ipywidgets.RadioButtons(
            options=[NO_GUESS, *self.choices],
            value=earlier if earlier in self.choices else NO_GUESS,
            description="Your guess:",
            layout=ipywidgets.Layout(width="auto"),
        )
        self.note = ipywidgets.HTML(self._note(earlier))
        self.buttons.observe(self._changed, names="value")
        asked = ipywidgets.HTML(f"<p><strong>Predict.</strong> {html.escape(question)}</p>")
        self.narrator = Narrator([self.buttons])
        self.box = ipywidgets.VBox([asked, self.buttons, self.note, self.narrator])
        self.text = "\n".join([f"Predict. {question}", *(f"  - {choice}" for choice in self.choices)])

    def show(self) -> None:
        """Put it under the cell: the widget, or the question and its choices as a list."""
        from mlcourse.teaching.output import WIDGET, Output
        from mlcourse.teaching.widgets import view

        listed = "".join(f"<li>{html.escape(choice)}</li>" for choice in self.choices)
        page = f"<p><strong>Predict.</strong> {html.escape(self.question)}</p><ul>{listed}</ul>"
        Output(self.text, page, {WIDGET: view(self.box)}).show()

    def _changed(self, change) -> None:
        self.narrator.hear()
        record_guess(self.key, self.question, change["new"])
        self.note.value = self._note(None if change["new"] == NO_GUESS else change["new"])

    def _note(self, choice: str | None) -> str:
        if choice is None:
            return "<p>Commit to a guess before you run the next cell. A wrong guess teaches most.</p>"
        return f"<p>Your guess is kept: {html.escape(choice)}.</p>"


def reveal(key: str, answer: str) -> None:
    """Put the guess of question `key` beside the measured answer, in words."""
    earlier = guess(key)
    yours = "You made no guess" if earlier is None else f"Your guess: {earlier}"
    agreed = "" if earlier is None else " They agree." if earlier == answer else " They differ: read on."
    print(f"{yours}. Measured: {answer}.{agreed}")
