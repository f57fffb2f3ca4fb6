"""What every `mlcourse train …` shares: options, and the end: train by a recipe, keep the run, say how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlcourse.commands.data import SKIP_HELP
from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    import torch

    from mlcourse.distributed import Alone
    from mlcourse.learners import Learner, Recipe

ShortRecipe = Annotated[
    str, typer.Option(help="smoke (a few steps, to see that it runs) or short (at most ten minutes on 2 cores)")
]
Steps = Annotated[int | None, typer.Option(help="outer steps, in place of the recipe's")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Out = Annotated[Path | None, typer.Option(help="folder of the run (default: one in runs)")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the run's checkpoint, if there is one")]
DataRoot = Annotated[Path | None, typer.Option(help="local copy of the data (default: MLCOURSE_DATA)")]
Download = Annotated[bool, typer.Option("--download", help="fetch a missing data set")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help=SKIP_HELP)]


def begin_alone(device: str) -> torch.device:
    """The device of a command for one process, with memory and threads as a computation wants them."""
    from mlcourse import devices, threads

    devices.keep_freed_memory()
    threads.limit()
    return devices.pick(device)


def begin(device: str) -> tuple[Alone, torch.device]:
    """The processes that train together (`torchrun`, or this one alone), and the device of this one of them."""
    from mlcourse import distributed

    together = distributed.join()
    together.quiet()
    return together, together.place(begin_alone(device))


def check_shares(together: Alone, tasks: int, what: str, *, least: int = 1) -> None:
    """Raise CourseError where several processes cannot share a step of so many tasks (`what`) evenly, `least` for each.

    For commands that cannot give a step more tasks.
    """
    if tasks % together.world == 0 and tasks // together.world >= least:
        return
    fit = [str(world) for world in range(2, tasks // least + 1) if tasks % world == 0]
    remedy = f"start {' or '.join(fit)} processes" if fit else "start it without torchrun"
    each = "one" if least == 1 else str(least)
    raise CourseError(
        f"{together.world} processes cannot share the {tasks} {what} of a step evenly, {each} or more for each one: "
        f"{remedy}"
    )


def by_recipe(
    learner: Learner,
    source: Any,
    plan: Recipe,
    *,
    steps: int,
    out: Path,
    chosen_on: str,
    settings: dict[str, Any],
    skip_damaged: bool = False,
    **more: Any,
) -> None:
    """`training.train` by the numbers of a recipe, into `out`, and a line on what came of it.

    chosen_on: what the best step was chosen on, such as "validation classes". settings: what is kept of the run beside
    its numbers; skip_damaged is kept, too, where it is true. more: of `training.train`.
    Leaves with exit code 130 when it was interrupted: what was learnt is kept.
    """
    from mlcourse import distributed, memory, training

    together = distributed.current()
    with _alone_in(out, together):
        print(f"the run is kept in {out}")
        history = training.train(
            learner,
            source,
            steps=steps,
            tasks=plan.tasks,
            rate=plan.rate,
            schedule=plan.schedule,
            validate_every=plan.validate_every,
            validation_episodes=plan.validation_episodes,
            out=out,
            settings=settings | ({"skip_damaged": True} if skip_damaged else {}),
            **more,
        )
        together.leave()
    done = len(history.losses)
    if history.interrupted:
        print(f"stopped after {done} of {steps} steps; what was learnt is in {out}, --resume goes on")
        raise typer.Exit(130)
    best = f", best at step {history.best_step} on {chosen_on}" if history.validations else ""
    others = "".join(f", {name} {value:.3g} in the last steps" for name, value in history.others.items())
    cost = f"{history.seconds:.0f} s, peak memory {memory.peak():.0f} MiB"
    print(f"{done} steps in {cost}{best}{others}. Next: mlcourse evaluate {out}")


@contextmanager
def _alone_in(out: Path, together: Alone) -> Iterator[None]:
    """Raise CourseError where another training writes into the folder now: they would mix their logs and weights.

    Where no lock can be made beside the folder (a parent that may not be written), nothing is checked.
    """
    from filelock import FileLock, Timeout

    place, held = out.resolve(), []

    def take() -> None:
        if not place.name:  # the root of a disk
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=0)
            lock.acquire()
        except Timeout:
            raise CourseError(f"another training writes into {out} now: wait for it, or name another --out") from None
        except OSError:
            return
        held.append(lock)

    together.from_first(take)
    try:
        yield
    finally:
        for lock in held:
            with suppress(OSError):  # Windows deletes no file that is open: there it stays
                Path(lock.lock_file).unlink()
            lock.release()
