"""`mlcourse evaluate … --protocol NAME-OR-FILE`: a learner on fixed episodes, and the file of its result."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from mlcourse.commands import say
from mlcourse.errors import CourseError, printable

LISTS = ("vinyals", "lake")  # splits of omniglot, which `--protocol` names, too


def names_episodes(protocol: str | None, out: Path | None) -> bool:
    """Whether `--protocol` names fixed episodes. Raises CourseError for `--out` where nothing would be written."""
    fixed = protocol is not None and protocol not in LISTS
    if out is not None and not fixed:
        raise CourseError(f"--out {out} is for results on fixed episodes: add --protocol NAME, or leave it out")
    return fixed


def check_free(protocol: str, given: dict[str, Any]) -> None:
    """Raise CourseError where an option was given (None: it was not) that the protocol fixes."""
    for name, value in given.items():
        if value is not None:
            raise CourseError(f"--{name} is {value}, but protocol {protocol} fixes the episodes: leave --{name} out")


def evaluate(
    learner: str,
    protocol: str,
    *,
    baseline: str | None,
    seed: int | None,
    device: str,
    root: Path | None,
    download: bool,
    convert: bool,
    out: Path | None,
    as_json: bool,
    seen: dict[str, float],
) -> None:
    """Evaluate, write the result, and say what it is.

    baseline: the method of a learner that is no run; its weights are of `seed` (None: 0). seen: of `views.asked`. The
    other options are those of `mlcourse evaluate`.
    """
    from mlcourse import learners, protocols
    from mlcourse.commands import known_classes
    from mlcourse.commands.training_run import begin_alone
    from mlcourse.commands.views import check_ground

    chosen = protocols.read(protocol)
    if baseline is None and seed is not None:
        raise CourseError(f"--seed is {seed}, but the episodes of protocol {chosen.name} have their own: leave it out")
    place = begin_alone(device)
    about: dict[str, Any] = {}
    if baseline:
        channels, size, _ = chosen.images(root=root, download=download).shape
        model = learners.build(baseline, way=chosen.way, in_channels=channels, size=size, seed=seed or 0).to(place)
        name, weights = learner, any(True for _ in model.parameters())
        if seed is not None and not weights:
            raise CourseError(f"--seed is {seed}, but {learner} has no weights, and episodes are fixed: leave it out")
        if weights:
            name, about = f"{learner}-seed{seed or 0}", {"seed": seed or 0}
    else:
        model, about = learners.load_run(learner, device=place)
        name = Path(learner).resolve().name
        pictures = partial(chosen.images, root=root, download=download)
        for line in known_classes.on_protocol(name, about, chosen.dataset, pictures, root):
            say(line)
        if printable(name) != name or not name.strip():
            raise CourseError(f"the run's folder is named {name!r}, which no table can show: rename it, then evaluate")
    method = learner if baseline else None
    if seen:
        check_ground(chosen.images(root=root, download=download), seen)
    suffix = "".join(f"-{option}{value}" for option, value in seen.items())
    path = out or protocols.folders(chosen)[1] / f"{name}{suffix}.json"
    protocols.check_place(path, chosen, protocols.of_training(model, about, method, seen))
    named = chosen.name if protocol in protocols.names() else Path(protocol).name
    words = ["mlcourse", "evaluate", learner if baseline else name, "--protocol", named]
    words += [word for option, value in seen.items() for word in (f"--{option}", str(value))]
    words += ["--seed", str(seed)] if seed else []
    result = protocols.evaluate(
        chosen,
        model,
        name=name,
        about=about,
        method=method,
        command=shlex.join([*words, *(["--convert"] if convert else [])]),
        root=root,
        download=download,
        convert=convert,
        device=place,
        seen=seen,
    )
    protocols.save(result, path)
    row = protocols.Row(result.method, result.title, (result,))
    if as_json:
        from mlcourse.commands.table import row_numbers

        print(json.dumps(row_numbers(row) | {"protocol": chosen.name, "digest": chosen.digest, "file": str(path)}))
        return
    half, data = row.over_episodes.upper - row.accuracy, row.over_data
    over_data = f"no interval over the {chosen.clusters} (too few, or all of them in each episode)"
    if data:
        over_data = f"{100 * data.lower:.2f} to {100 * data.upper:.2f} over {chosen.clusters}"
    print(
        f"{learner}{suffix} on protocol {chosen.name}: {100 * row.accuracy:.2f} ± {100 * half:.2f} % over "
        f"{chosen.episodes} episodes, {over_data}; worst tenth {100 * row.worst_tenth:.1f} %"
    )
    after = f"mlcourse table {shlex.quote(protocol)}"
    if path.parent not in protocols.folders(chosen):  # the table looks there by itself
        after += f" --results {shlex.quote(str(path.parent))}"
    print(f"the result is in {path}. Next: {after}")
