"""`mlcourse bench`: how long a meta-training step takes here, beside the plain loop and beside other libraries."""

from pathlib import Path
from typing import Annotated

import typer


def bench(
    what: Annotated[str, typer.Argument(help="maml")],
    workload: Annotated[list[str] | None, typer.Option(help="W1-q1, W1-q15, W2, W3, MLP (default: all)")] = None,
    rounds: Annotated[int, typer.Option(help="steps of each way, taking turns; 5 or more for a figure to report")] = 5,
    growth: Annotated[bool, typer.Option(help="also the growth with tasks and with inner steps")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
    out: Annotated[Path | None, typer.Option(help="also write the JSON to this file")] = None,
) -> None:
    r"""Time one second-order MAML step: all ways take turns in one run, and their gradients are compared.

    The libraries higher, TorchOpt and learn2learn take part where they are installed: pip install -e ".\[peers]".
    Let nothing else run meanwhile.
    """
    import json

    from mlcourse import bench, devices
    from mlcourse.commands.console import Progress
    from mlcourse.errors import CourseError

    if what != "maml":
        raise CourseError(f"{what!r} has no benchmark; use maml")
    place = devices.pick(device)
    names = workload or list(bench.WORKLOADS)
    with Progress("bench") as progress:
        report = bench.bench(names, rounds=rounds, device=place, grow=growth, say=progress.say, at=progress.at, out=out)
    print(json.dumps(report)) if as_json else show(report)


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
