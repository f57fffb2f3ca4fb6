"""What a person submits: a Python file, the folder of a run, or the name of a method. Nothing of it runs here."""

import ast
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mlcourse import learners, places
from mlcourse.challenge import rules
from mlcourse.classroom import wire
from mlcourse.errors import CourseError, printable
from mlcourse.learners import METHODS
from mlcourse.protocols import flop

LARGEST_CLOSED = 20_000  # bytes of a file: 20 lines, and as much text about them as anybody needs
LARGEST = 1_000_000  # bytes of a Python file


@dataclass(frozen=True)
class Submission:
    """What goes into the process of a submission, and what the card says of it.

    request: of the child, to load the learner. made: where its weights come from, in words; "": as `meta_fit` says.
    flop: of a training before, as its config tells; None: not known, or none.
    """

    name: str
    digest: str
    request: dict[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)
    made: str = ""
    flop: int | None = None


def read(given: str | Path, track: str) -> Submission:
    """The submission of a path or a name.

    Raises CourseError for one that is not there, is no Python, or that the track does not take.
    """
    rules.check_track(track)
    path = places.whole(given)
    if str(given) in METHODS and not path.exists():
        return _of_method(str(given))
    if path.is_dir():
        return _of_run(path, track)
    if not path.is_file():
        raise CourseError(
            f"there is no submission {printable(given)}: give a Python file, the folder of a run, or a method out of "
            f"{', '.join(METHODS)}"
        )
    return _of_file(path, track)


def _of_method(name: str) -> Submission:
    made = "nothing to train" if not METHODS[name].recipes else "random weights"
    return Submission(name, _digest(name.encode()), {"method": name}, made=made, flop=0)


def _of_run(folder: Path, track: str) -> Submission:
    learner, about = learners.load_run(folder)
    name = printable(folder.resolve().name)
    data, shape = about.get("dataset"), learners.shape_of(learner)
    if shape not in (None, rules.SHAPE):
        raise CourseError(f"{name} was trained on pictures {shape}, and those of the challenge are {rules.SHAPE}")
    if track == "closed" and data != "glyphs":
        raise CourseError(
            f"{name} was trained on {data or 'data that it does not name'}, and the closed track takes weights of the "
            "training scripts only (mlcourse train … --dataset glyphs): take --track open"
        )
    start = about.get("init", "none")
    if track == "closed" and start != "none":
        raise CourseError(
            f"{name} began with another run ({printable(str(start))}), whose FLOP it does not tell, and the "
            "closed track takes runs from random weights: take --track open"
        )
    weights = learner.state_dict()
    _check_size(name, sum(value.nbytes for value in weights.values()))
    step = flop.of_step(learner, about, rules.SHAPE) if start == "none" else None  # that of its start is not known
    steps = about.get("steps_done", about.get("steps"))
    made = f"a run of mlcourse train on {data or 'data that it does not name'}"
    told = repr([(key, hashlib.sha256(value.numpy().tobytes()).hexdigest()) for key, value in sorted(weights.items())])
    return Submission(
        name,
        _digest(told.encode()),
        {"config": learner.recorded()},
        weights,
        made,
        None if step is None or not isinstance(steps, int) else step * steps,
    )


def _of_file(path: Path, track: str) -> Submission:
    name = printable(path.name)
    if path.stat().st_size > LARGEST:
        raise CourseError(f"{name} has more than {LARGEST / 1e6:.0f} MB; a submission has about 20 lines")
    content = path.read_bytes()
    if track == "closed" and len(content) > LARGEST_CLOSED:
        raise CourseError(
            f"{name} has {len(content):,} bytes, and the closed track takes {LARGEST_CLOSED:,}, so that no weights fit "
            "in: shorten it, or take --track open"
        )
    try:
        source = content.decode("utf-8-sig")
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise CourseError(f"{name} is refused: it is no Python file ({where})") from None
    beside = path.with_suffix(".safetensors")
    if not beside.is_file():
        return Submission(name, _digest(content), {"source": source})
    if track == "closed":
        raise CourseError(
            f"{name} has weights beside it ({beside.name}), and the closed track takes none: take --track open, or "
            "move them away"
        )
    return Submission(
        name,
        _digest(content + beside.read_bytes()),
        {"source": source},
        _weights(beside),
        f"the file {printable(beside.name)}",
    )


def _weights(path: Path) -> dict[str, Tensor]:
    _check_size(path.name, path.stat().st_size)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CourseError(
            f"{path.name} holds no tensors ({error}); write it with safetensors.torch.save_file"
        ) from None


def _check_size(name: str, size: int) -> None:
    most = wire.LARGEST_BODY - 2**20  # beside the names
    if size > most:
        raise CourseError(f"{name} has weights of more than {most / 2**20:.0f} MiB; take a smaller network")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
