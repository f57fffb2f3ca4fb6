"""`mlcourse challenge`: a submission on hidden tasks, and its score card."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.commands import console, say
from mlcourse.errors import CourseError, printable


def challenge(
    submission: Annotated[str, typer.Argument(help="A Python file, the folder of a run, or the name of a method.")],
    track: Annotated[
        str, typer.Option(help="closed: learns from the training scripts only, under the budget; open: from anything.")
    ] = "closed",
    seed: Annotated[str, typer.Option(help="Of the hidden episodes: an integer.")] = "0",
    episodes: Annotated[int, typer.Option(help="Hidden episodes of each domain.")] = 100,
    budget: Annotated[float | None, typer.Option(help="FLOP of the training, such as 2e12 (the default).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of card.json and card.png (default: challenge).")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Your own pictures, a folder per class: a row of their own on the card.")
    ] = None,
) -> None:
    """Run a SUBMISSION on hidden tasks of any way and shot, and write its score card. The rules: docs/challenge.md.

    It runs in a process of its own, which gets tensors only. What breaks a rule is refused in one line.
    """
    number = _seed(seed)
    target = places.whole(out or "challenge")
    if target.exists() and not target.is_dir():
        raise CourseError(f"--out {target} is a file, and the card needs a folder: name another")
    try:  # before the work
        target.mkdir(parents=True, exist_ok=True)
        writable = os.access(target, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise CourseError(f"--out {target}: no folder can be made or written there; name another")
    _check_cards(target, submission)
    from mlcourse.challenge import Budget, run_submission
    from mlcourse.classroom import sandbox

    if not sandbox.bubblewrap():
        say(sandbox.warning())
    with console.Progress("challenge") as progress:
        card = run_submission(
            submission,
            seed=number,
            episodes=episodes,
            track=track,
            budget=Budget() if budget is None else Budget(training=budget),
            folder=folder,
            say=progress.at,
        )
    print("\n".join(card.lines()), flush=True)
    written = card.write(target)
    print(f"card: {', '.join(map(str, written))}")


def _check_cards(folder: Path, submission: str) -> None:
    """Raise CourseError where the card of another submission, or a file that is no card, would be overwritten."""
    from mlcourse.challenge.card import JSON, PNG

    there = [name for name in (JSON, PNG) if (folder / name).exists()]
    if not there:
        return
    try:
        theirs = files.read_json(folder / JSON)["submission"]
    except (CourseError, OSError, KeyError, TypeError):
        raise CourseError(f"{folder / there[0]} is no card of the challenge: name another --out") from None
    if theirs not in (printable(Path(submission).name), printable(Path(submission).resolve().name)):
        raise CourseError(f"{folder} holds the card of {theirs}, which would be overwritten: name another --out")


def _seed(text: str) -> int:
    """The seed as a number. Raises CourseError for what is none."""
    if not text.strip().isdecimal() or not 0 <= int(text) < 2**64:
        raise CourseError(f"--seed is {text!r}; give an integer from 0 to {2**64 - 1}")
    return int(text)
