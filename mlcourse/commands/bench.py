"""`mlcourse bench`: how long a meta-training step takes here, beside other libraries and beside busy neighbours."""

from pathlib import Path
from typing import Annotated

import typer


def bench(
    what: Annotated[str, typer.Argument(help="maml, processes, threads, lessons or gpu")],
    workload: Annotated[list[str] | None, typer.Option(help="W1-q1, W1-q15, W2, W3, MLP (default: all)")] = None,
    rounds: Annotated[int, typer.Option(help="steps of each way, taking turns; 5 or more for a figure to report")] = 5,
    growth: Annotated[bool, typer.Option(help="also the growth with tasks and with inner steps")] = True,
    load: Annotated[
        list[str] | None, typer.Option(help="threads, lessons: quiet, one neighbour, two neighbours")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
    out: Annotated[Path | None, typer.Option(help="also write the JSON to this file")] = None,
) -> None:
    r"""maml: time one second-order MAML step. All ways take turns in one run, and their gradients are compared.

    The libraries higher, TorchOpt and learn2learn take part where they are installed: pip install -e ".\[peers]".

    threads: time steps and a lesson while others use the same cores, by how PyTorch's threads wait. About 20 minutes.

    lessons: time every lesson at its full length beside one busy neighbour (or --load). About 10 minutes.

    processes: time MAML's step in 1 and in 2 processes of one thread, and project it to 8 GPUs. About 2 minutes.

    gpu: what a GPU computes and how quickly, in at most eight minutes, into data/results/gpu.json (or --out).

    Let nothing else run meanwhile.
    """
    import json

    from mlcourse import bench, devices, threads
    from mlcourse.commands.console import Progress
    from mlcourse.errors import CourseError

    if what == "threads":
        return bench_threads(load, as_json, out)
    if what == "lessons":
        return bench_lessons(load, as_json, out)
    if what == "gpu":
        return bench_gpu(as_json, out)
    if what == "processes":
        return bench_processes(rounds, as_json, out)
    if what != "maml":
        raise CourseError(f"{what!r} has no benchmark; use maml, processes, threads, lessons or gpu")
    place = devices.pick(device)
    threads.limit()
    names = workload or list(bench.WORKLOADS)
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


def bench_gpu(as_json: bool, out: Path | None) -> None:
    """The report of `mlcourse.gpu_report`. Leaves with exit code 1 where a part failed, or a test."""
    import json

    from mlcourse import gpu_report, places
    from mlcourse.commands import say

    device = gpu_report.the_gpu()
    out = out or places.data() / "results" / "gpu.json"
    report = gpu_report.report(device, out, say=say)
    print(json.dumps(report)) if as_json else print("\n".join(gpu_report.told(report)))
    for line in (wrong := gpu_report.failures(report)):
        say(line)
    if wrong:
        raise typer.Exit(1)


def bench_processes(rounds: int, as_json: bool, out: Path | None) -> None:
    """The report of `mlcourse.scaling`."""
    import json

    from mlcourse import files, scaling

    report = scaling.report(rounds=rounds)
    if out is not None:
        files.write_json(out, report)
    print(json.dumps(report)) if as_json else print("\n".join(scaling.told(report)))


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
