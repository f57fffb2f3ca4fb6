"""The files of results: written a line per field, and believed on reading only as far as they agree with themselves.

What follows from something else is computed again: right answers per group, per confidence and per episode add up to
the same, and so does the work of a training. What cannot be computed again without the learner (losses, confidences)
has to lie where the counts leave room for it.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path

from mlcourse import files, places
from mlcourse.episodes import check_positive, check_seed
from mlcourse.errors import CourseError, printable
from mlcourse.protocols import typed
from mlcourse.protocols.protocol import Protocol
from mlcourse.protocols.results import COLUMNS, WHEN, Stored, scale_of
from mlcourse.statistics import BINS, COLDEST, HOTTEST

ANEW = "evaluate anew"
ROUNDING = 1e-9  # of a sum, for each of its terms
LEAST_SHARE = 2**-50  # a probability that was rounded to 0 beside a confidence of 1
DIGEST = re.compile("[0-9a-f]{16}")
FLOP = ("episode", "step", "training")


def folders(protocol: Protocol) -> tuple[Path, Path]:
    """Where results of a protocol lie: the course's own, and those that `mlcourse evaluate` leaves here."""
    return places.data() / "results" / protocol.name, Path("runs") / "results" / protocol.name


def save(result: Stored, path: Path | str) -> None:
    """Write a result, a line per field."""
    lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.as_json().items())
    files.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load(path: Path | str, protocol: Protocol) -> Stored:
    """Read a result of a protocol.

    Raises CourseError, with the file and the field, for a damaged file, one of another protocol or of other episodes,
    and for whatever contradicts itself or cannot be.
    """
    found = typed.read(path, Stored, ANEW)
    if found.protocol != protocol.name:
        raise CourseError(f"{path} is a result of protocol {found.protocol!r}, not of {protocol.name}; move it away")
    if found.digest != protocol.digest:
        raise CourseError(
            f"{path} is of other episodes, or of others asked in another way, ({found.digest}) than protocol "
            f"{protocol.name} has now ({protocol.digest}); {ANEW}"
        )
    try:
        _check_words(found, protocol)
        _check_training(found)
        _check_counts(found, protocol)
        _check_groups(found, protocol)
        for when in WHEN:
            _check_reliability(found, when, protocol)
        _check_temperature(found)
    except CourseError as error:
        raise CourseError(f"{path}: {error}; {ANEW}") from None
    return found


def stored(protocol: Protocol, *places_to_look: Path | str) -> list[Stored]:
    """All results of a protocol (default: of `folders`), in the order of their files' names.

    Raises CourseError for a file that is no result of this protocol, for results of other pictures, for two of one
    training that differ, and for two that count other classes: all results of a protocol have the same episodes.
    """
    found: dict[tuple, tuple[Path, Stored]] = {}
    for place in places_to_look or folders(protocol):
        for path in sorted(Path(place).glob("*.json")):
            one = load(path, protocol)
            first, other = found.setdefault((one.row, one.seed, one.weights), (path, one))
            if other.right != one.right:
                raise CourseError(f"{first} and {path} are of the same training, but differ: remove one of them")
    if len({one.content for _, one in found.values()}) > 1:
        raise CourseError(
            f"results of protocol {protocol.name} are of {len({one.content for _, one in found.values()})} different "
            "copies of its pictures (another decoder, or other files), so they are no pairs: evaluate all on one copy"
        )
    drawn = {
        path: (one.crowding, {name: there for name, (there, _) in one.groups.items()}) for path, one in found.values()
    }
    for path, classes in drawn.items():
        first = next(iter(drawn))
        if classes != drawn[first]:
            raise CourseError(
                f"{first} and {path} count other classes in groups, or in crowding, but have the same episodes; one of "
                f"them was changed: {ANEW}"
            )
    return [one for _, one in found.values()]


# ------------------------------------------------------------------ what a file may say


def _check_words(result: Stored, protocol: Protocol) -> None:
    for name in ("learner", "method", "network", "normalisation", "trained_on", "budget", "command", "made_by"):
        text = getattr(result, name)
        if text is not None and (printable(text) != text or not (text.strip() or name == "command")):
            raise CourseError(f"{name} is {typed.shown(text)}, which is no line of text")
    if protocol.content_digest not in (None, result.content):
        raise CourseError(
            f"content is {result.content!r}, but the pictures of protocol {protocol.name} have "
            f"{protocol.content_digest!r}"
        )
    for name in ("content", "weights"):
        if not DIGEST.fullmatch(getattr(result, name)):
            raise CourseError(f"{name} is {typed.shown(getattr(result, name))}, which is no digest")
    known = f"{Path(str(protocol.calibrate_on['dataset'])).name} {protocol.calibrate_on['split']}"
    if result.fitted_on != known:
        raise CourseError(f"fitted_on is {typed.shown(result.fitted_on)}, but the protocol calibrates on {known!r}")


def _check_training(result: Stored) -> None:
    if result.seed is not None:
        check_seed(result.seed)
    if result.steps is not None and result.steps < 0:
        raise CourseError(f"steps is {result.steps}, and a training has 0 or more")
    for side in result.shape:
        check_positive("a number of shape", side)
    if "options" not in result.settings:
        raise CourseError("settings has no options of the learner")
    flop = result.flop
    if flop.keys() != set(FLOP) or any(one is not None and one < 0 for one in flop.values()):
        raise CourseError(f"flop is {typed.shown(flop)}, and counts {', '.join(FLOP)}, each 0 or more")
    all_steps = None if None in (flop["step"], result.steps) else flop["step"] * result.steps
    if flop["training"] != all_steps or flop["episode"] is None:
        raise CourseError(f"flop of the training is {flop['training']}, and steps make {all_steps} of it")


def _check_counts(result: Stored, protocol: Protocol) -> None:
    """Right answers per episode."""
    if result.queries != protocol.way * protocol.query:
        raise CourseError(f"queries is {result.queries}, but an episode has {protocol.way * protocol.query}")
    if len(result.right) != protocol.episodes:
        raise CourseError(
            f"right has {len(result.right)} episodes, but protocol {protocol.name} has {protocol.episodes}"
        )
    wrong = [one for one in result.right if not 0 <= one <= result.queries]
    if wrong:
        raise CourseError(f"right has {wrong[0]} of {result.queries} queries")


def _check_groups(result: Stored, protocol: Protocol) -> None:
    """Classes and right answers of each group."""
    each = protocol.way if protocol.tasks == "classes" else 1  # classes that an episode counts for
    for name, (there, right) in result.groups.items():
        if not (0 <= there <= each * protocol.episodes and 0 <= right <= there * result.queries):
            raise CourseError(f"groups has {right} right answers in {there} classes of {name!r}, which cannot be")
    classes, right = (sum(pair[index] for pair in result.groups.values()) for index in (0, 1))
    if classes != each * protocol.episodes:
        raise CourseError(f"groups has {classes} classes, but all episodes have {each * protocol.episodes}")
    if right != each * sum(result.right):
        raise CourseError(f"groups has {right} right answers, and right adds up to {each} times {sum(result.right)}")
    if result.scale != scale_of(protocol):
        raise CourseError(f"scale is {result.scale}, and follows from the protocol: {scale_of(protocol)}")
    alone = each == 1 or len(result.groups) == protocol.classes  # each class is a group of its own
    if not each <= result.crowding <= (each if alone else each**2):
        raise CourseError(f"crowding is {result.crowding}, which episodes of {each} classes cannot have")


def _check_reliability(result: Stored, when: str, protocol: Protocol) -> None:
    """Answers by confidence: how many, how sure, how many of them right, and their losses."""
    where = f"reliability {when} the temperature"
    if result.reliability.keys() != set(WHEN):
        raise CourseError(f"reliability has {', '.join(result.reliability) or 'nothing'}, and needs {', '.join(WHEN)}")
    table = result.reliability[when]
    if len(table) != BINS + 1 or any(len(row) != COLUMNS for row in table):
        raise CourseError(f"{where} has no {BINS + 1} rows of {COLUMNS} numbers")
    for index, (answers, sure, right, loss) in enumerate(table):
        low, high = min(index / BINS, 1.0), min((index + 1) / BINS, 1.0)
        slack = ROUNDING * (1 + answers)
        if answers % 1 or right % 1 or not 0 <= right <= answers:
            raise CourseError(f"{where} has {right} right ones of {answers} answers in row {index}")
        if not low * answers - slack <= sure <= high * answers + slack:
            raise CourseError(f"{where} has confidences that its row {index} cannot have")
        # who is right has the probability that it names; who is wrong leaves at most the rest to the right class
        least = -right * math.log(high) - (answers - right) * math.log(min(high, max(1 - low, LEAST_SHARE)))
        most = math.inf if right < answers or (low == 0 and answers) else -right * math.log(low or 1)
        if not least - slack <= loss <= most + slack:
            raise CourseError(f"{where} has a loss of {loss} in row {index}, where its answers give {least} or more")
    answers, right = (sum(row[column] for row in table) for column in (0, 2))
    if answers != protocol.episodes * result.queries:
        raise CourseError(f"{where} has {answers:g} answers of {protocol.episodes * result.queries}")
    if right != sum(result.right):
        raise CourseError(f"{where} has {right:g} right answers, and right adds up to {sum(result.right)}")


def _check_temperature(result: Stored) -> None:
    if not COLDEST <= result.temperature <= HOTTEST:
        raise CourseError(f"temperature is {result.temperature}, and lies between {COLDEST} and {HOTTEST}")
    before, after = (sum(row[1] for row in result.reliability[when]) for when in WHEN)
    # dividing logits by more than 1 makes each answer less sure, by less than 1 more sure
    if (before - after) * (result.temperature - 1) < -ROUNDING * (1 + before):
        raise CourseError(
            f"temperature is {result.temperature}, but reliability has confidences of {before:.6g} before and "
            f"{after:.6g} after it"
        )


# ------------------------------------------------------------------ before a result is written


def check_place(path: Path | str, protocol: Protocol, training: dict) -> None:
    """Raise CourseError where a result could not be written to `path`, or would replace anything but an older one.

    training: of `results.of_training`. An older result is one of the same protocol and training.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise CourseError(f"the result would be {path}: end the file's name in .json, as mlcourse table looks for it")
    try:
        there = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        there = None
    except OSError as error:  # a name that is too long, for one
        raise _unwritable(path, error) from None
    if path.is_dir():
        raise CourseError(f"{path} is a folder: name a file in it, such as {path / 'result.json'}")
    nearest = next(folder for folder in path.parents if folder.exists() or folder == folder.parent)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    if there is not None:
        _check_older(path, {"protocol": protocol.name} | training)


def _unwritable(path: Path, error: OSError) -> CourseError:
    return CourseError(f"{path} cannot be written ({error.strerror}): name another file with --out")


def _check_older(path: Path, told: dict) -> None:
    """Raise CourseError unless a file is an older result of what is told."""
    remedy = "name another file with --out, or move it away"
    try:
        earlier = files.read_json(path)
    except (CourseError, ValueError, RecursionError):
        raise CourseError(f"{path} is there, and is no result: {remedy}") from None
    for name, now in json.loads(json.dumps(told)).items():
        if name not in earlier:
            raise CourseError(f"{path} is there, and is no result, or of another version: {remedy}")
        if earlier[name] != now:
            raise CourseError(
                f"{path} holds the result of another training, or on another protocol ({name} "
                f"{typed.shown(earlier[name])}, and this one {typed.shown(now)}): {remedy}"
            )
