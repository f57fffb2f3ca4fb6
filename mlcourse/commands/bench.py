"""`mlcourse bench`: how long a meta-training step takes here, beside other libraries and beside busy neighbours."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from mlcourse import files
from mlcourse.errors import CourseError

# The benchmarks, and which options each takes beside --json and --out, which all take.
TAKES = {
    "maml": ("workload", "rounds", "growth", "device"),
    "processes": ("rounds",),
    "threads": ("load",),
    "lessons": ("load",),
    "gpu": (),
}
# What holds the figures in the report of each: by this an earlier report is known.
FIGURES = {"maml": "workloads", "processes": "measured", "threads": "loads", "lessons": "seconds", "gpu": "parts"}
ROUNDS = 5


def bench(
    what: Annotated[str, typer.Argument(help="maml, processes, threads, lessons or gpu")],
    workload: Annotated[
        list[str] | None, typer.Option(help="of maml: W1-q1, W1-q15, W2, W3, MLP (default: all)")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help=f"of maml, processes: steps of each way, 5 or more for a figure to report (default: {ROUNDS})"
        ),
    ] = None,
    growth: Annotated[
        bool | None, typer.Option(help="of maml: also the growth with tasks and with inner steps (default: yes)")
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            help="of threads, lessons: quiet, one neighbour, two neighbours (default: all; of lessons one neighbour)"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="of maml: auto, cpu or cuda (default: auto)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
    out: Annotated[
        Path | None, typer.Option(help="also write the JSON to this file; an earlier report is replaced")
    ] = None,
) -> None:
    r"""maml: time one second-order MAML step. All ways take turns in one run, and their gradients are compared.

    The libraries higher, TorchOpt and learn2learn take part where they are installed: pip install -e ".\[peers]".

    threads: time steps and a lesson while others use the same cores, by how PyTorch's threads wait. About 20 minutes.

    lessons: time every lesson at its full length beside one busy neighbour (or --load). About 10 minutes.

    processes: time MAML's step in 1 and in 2 processes of one thread, and project it to 8 GPUs. About 2 minutes.

    gpu: what a GPU computes and how quickly, in at most eight minutes, into data/results/gpu.json (or --out).

    Let nothing else run meanwhile.
    """
    check_options(what, {"workload": workload, "rounds": rounds, "growth": growth, "load": load, "device": device})
    out = place_of(what, out)
    if out is not None:
        check_place(out, what)
    rounds = ROUNDS if rounds is None else rounds
    if what == "threads":
        return bench_threads(load, as_json, out)
    if what == "lessons":
        return bench_lessons(load, as_json, out)
    if what == "gpu":
        return bench_gpu(as_json, out)
    if what == "processes":
        return bench_processes(rounds, as_json, out)
    return bench_maml(workload, rounds, growth is not False, device or "auto", as_json, out)


def check_options(what: str, options: dict[str, Any]) -> None:
    """Raise CourseError for an unknown benchmark, and for an option that it would ignore. None, []: was not given."""
    if what not in TAKES:
        raise CourseError(f"{what!r} has no benchmark; use maml, processes, threads, lessons or gpu")
    for option, value in options.items():
        if value is not None and value != [] and option not in TAKES[what]:
            takers = " and ".join(one for one, taken in TAKES.items() if option in taken)
            typed = f"no-{option}" if value is False else option
            raise CourseError(f"--{typed} is for bench {takers}: leave it out")


def place_of(what: str, out: Path | None) -> Path | None:
    """The file of the report; only that on a GPU is always written: such a machine is often lent for an hour."""
    from mlcourse import places

    return places.data() / "results" / "gpu.json" if out is None and what == "gpu" else out


def check_place(path: Path, what: str) -> None:
    """Raise CourseError where no report could be written, or where it would replace anything but an earlier one.

    This comes before the work: minutes of measuring would be lost otherwise.
    """
    try:
        there = is_there(path)
        if path.is_dir():
            raise CourseError(f"{path} is a folder: name a file in it with --out, such as {path / f'{what}.json'}")
        nearest = next(folder for folder in path.parents if folder.exists() or folder == folder.parent)
        with tempfile.TemporaryFile(dir=nearest):  # rights alone do not tell of a disk that can only be read
            pass
    except OSError as error:
        raise CourseError(f"{path} cannot be written ({error.strerror}): name another file with --out") from None
    if there and not is_report(path, what):
        raise CourseError(
            f"{path} is there, and is no report of bench {what}: name another file with --out, or move it away"
        )


def is_there(path: Path) -> bool:
    """Whether the name is taken, be it by a link that leads nowhere. Raises OSError for a name that no disk takes."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_report(path: Path, what: str) -> bool:
    """Whether a file holds an earlier report of the same benchmark."""
    if not path.is_file():  # a pipe, which one would wait for
        return False
    try:
        earlier = files.read_json(path)
    except (CourseError, OSError):
        return False
    return all(isinstance(earlier.get(name), dict) for name in ("machine", FIGURES[what]))


def bench_maml(
    workloads: list[str] | None, rounds: int, growth: bool, device: str, as_json: bool, out: Path | None
) -> None:
    """The tables of `mlcourse.bench`."""
    import json

    from mlcourse import bench, devices, threads
    from mlcourse.commands.console import Progress

    place = devices.pick(device)
    threads.limit()
    names = workloads or list(bench.WORKLOADS)
    with Progress("bench") as progress:
        report = bench.bench(names, rounds=rounds, device=place, grow=growth, say=progress.say, at=progress.at, out=out)
    print(json.dumps(report)) if as_json else show(report)


def bench_threads(loads: list[str] | None, as_json: bool, out: Path | None) -> None:
    """The table of `mlcourse.shared_cores`."""
    import json

    from mlcourse import shared_cores
    from mlcourse.commands.console import Progress

    with Progress("bench") as progress:
        report = shared_cores.table(loads=loads or list(shared_cores.NEIGHBOURS), at=progress.at, out=out)
    print(json.dumps(report)) if as_json else show_threads(report)


def bench_lessons(loads: list[str] | None, as_json: bool, out: Path | None) -> None:
    """The seconds of `mlcourse.shared_cores.lessons`."""
    import json

    from mlcourse import shared_cores
    from mlcourse.commands.console import Progress

    with Progress("bench") as progress:
        report = shared_cores.lessons(loads=loads or ["one neighbour"], at=progress.at, out=out)
    if as_json:
        print(json.dumps(report))
        return
    for load, seconds in report["seconds"].items():
        for name, taken in seconds.items():
            print(f"{load}: {name} {'given up' if taken is None else f'{taken:.0f} s'}")


def bench_gpu(as_json: bool, out: Path) -> None:
    """The report of `mlcourse.gpu_report`. Leaves with exit code 1 where a part failed, or a test."""
    import json

    from mlcourse import gpu_report
    from mlcourse.commands import say

    device = gpu_report.the_gpu()
    report = gpu_report.report(device, out, say=say)
    print(json.dumps(report)) if as_json else print("\n".join(gpu_report.told(report)))
    for line in (wrong := gpu_report.failures(report)):
        say(line)
    if wrong:
        raise typer.Exit(1)


def bench_processes(rounds: int, as_json: bool, out: Path | None) -> None:
    """The report of `mlcourse.scaling`."""
    import json

    from mlcourse import scaling

    report = scaling.report(rounds=rounds)
    print(json.dumps(report)) if as_json else print("\n".join(scaling.told(report)))
    if out is not None:  # last: a disk that has filled up meanwhile does not take the figures with it
        files.write_json(out, report)


def show_threads(report: dict) -> None:
    """Medians of steps in ms, with the 90 % points, and the notebook's seconds."""
    from rich.console import Console
    from rich.table import Table

    console, about = Console(), report["machine"]
    console.print(f"{about['processor']}, {about['threads']} threads")
    for load, settings in report["loads"].items():
        table = Table(title=f"{load}: ms per step (90 % are below), seconds of the notebook")
        table.add_column("threads wait")
        for column in next(iter(settings.values())):
            table.add_column(column, justify="right")
        for setting, jobs in settings.items():
            table.add_row(setting, *(time_of(job) for job in jobs.values()))
        console.print(table)


def time_of(job: dict) -> str:
    if "median" in job:
        return f"{1e3 * job['median']:.0f} ({1e3 * job['p90']:.0f})"
    return "given up" if job["seconds"] is None else f"{job['seconds']:.0f} s"


def show(report: dict) -> None:
    """The report as tables."""
    from rich.console import Console
    from rich.table import Table

    console, about = Console(), report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    console.print(f"{about['processor']} ({about['device']}), {about['threads']} threads; {versions}")
    console.print(
        f"convolution peak {report['convolution_peak'] / 1e9:.0f} GF/s; {report['rounds']} rounds, taking turns"
    )
    for name, entry in report["workloads"].items():
        table = Table(title=f"{name}: one second-order step, {entry['operations'] / 1e9:.1f} GF")
        table.add_column("way")
        for column in (
            "ms",
            "× loop",
            "least–most",
            "of peak",
            "× loop, tuned",
            "saved MB",
            "peak MB",
            "gradient error",
        ):
            table.add_column(column, justify="right")
        for way, row in entry["ways"].items():
            plain, tuned = (row[f"{kind} allocator"] for kind in ("default", "tuned"))
            times = plain["times_faster_than_loop"]
            table.add_row(
                way,
                f"{1e3 * plain['median']:.0f}",
                f"{times['median']:.2f}",
                f"{times['least']:.2f}–{times['most']:.2f}",
                f"{100 * plain['share_of_peak']:.0f} %",
                f"{tuned['times_faster_than_loop']['median']:.2f}",
                megabytes(row["saved_bytes"]),
                megabytes(row["peak_bytes"]),
                f"{row['gradient_error']:.0e}",
            )
        console.print(table)
    console.print(
        "× loop: how many times faster than the plain loop, median and range over rounds; tuned ×: the same with an"
    )
    console.print("allocator that keeps freed memory; error: of the gradient in float64, relative to the loop's.")
    if "growth" in report:
        table = Table(title="growth")
        for column in ("workload", "tasks", "inner steps", "way", "ms", "saved MB"):
            table.add_column(column, justify="right")
        for row in report["growth"]:
            counts = [str(row.get(key, "")) for key in ("tasks", "steps")]
            taken = f"{1e3 * row['seconds']:.0f}"
            table.add_row(row["workload"], *counts, row["way"], taken, megabytes(row["saved_bytes"]))
        console.print(table)


def megabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.0f}"
