"""The results tables of README.md, made from data/results: `python docs/make_results.py`.

A test makes the tables anew and compares: no figure in them is typed by hand.
"""

import json
import math
import statistics
import textwrap
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, README = ROOT / "data" / "results" / "omniglot.json", ROOT / "README.md"
BENCH = ROOT / "data" / "results" / "bench_maml.json"
BEGIN, END = "<!-- results: begin", "<!-- results: end -->"
NAMES = {
    "pixels": "nearest neighbour in pixels",
    "untrained-prototypical": "untrained network, prototypes",
    "prototypical": "prototypical networks",
    "matching": "matching networks",
    "relation": "relation networks",
    "r2d2": "R2-D2 (ridge regression)",
    "cosine-prototypical": "prototypical networks, cosine",
    "metanet": "Meta-Networks",
    "hypernet": "hypernetwork",
    "film": "feature-wise modulation",
    "incontext": "in-context learner",
    "maml": "MAML (second order)",
    "anil": "ANIL, head from zero",
}
# 5-way and 20-way accuracy of the papers, after their own, longer training: Snell et al. 2017, Vinyals et al. 2016,
# Sung et al. 2018, Munkhdalai & Yu 2017, Finn et al. 2017
PAPERS = {
    "prototypical": "98.8, 96.0",
    "matching": "98.1, 93.8",
    "relation": "99.6, 97.6",
    "metanet": "98.95, 97.0",
    "maml": "98.7, 95.8",
}
HEAD = f"""{BEGIN} (made by docs/make_results.py from data/results) -->

Omniglot, 1-shot, Vinyals split with rotations, trained for 5-way tasks from random weights at the budget `short`
(ANIL with `batch`: half its steps, which validation classes preferred), the best step chosen on validation classes;
1,000 test episodes, 15 queries a class. Mean ± 95 % interval over training runs; where there is one run, over its
episodes. `data/results/omniglot.json` has each run, the commands and the machine. Seconds: of one run on 2 quiet
cores, where it was taken. Paper: 5-way and 20-way figures (%) of the method's own paper, after its longer training.
`data/results/glyphs.json` has the same for the embedded characters.

| method | 5-way | worst tenth of the 5-way tasks | 20-way | normalisation | runs | training | paper |
|---|---|---|---|---|---|---|---|"""
# 97.5 % quantile of Student's t for n − 1 degrees of freedom
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def figure(runs: list[dict]) -> str:
    """Mean ± 95 % interval in percent: over runs where there are several, else over the episodes of the one."""
    accuracies = [run["accuracy"] for run in runs]
    if len(runs) == 1:
        half = runs[0]["ci95"]
    else:
        half = STUDENT[len(runs)] * statistics.stdev(accuracies) / math.sqrt(len(runs))
    return f"{100 * statistics.mean(accuracies):.2f} ± {100 * half:.2f} %"


def rows(runs: list[dict], seconds: dict[str, float]) -> list[str]:
    """One line a method and normalisation, in the order of NAMES."""
    groups = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run["method"], run["normalisation"]][run["way"]].append(run)
    lines = []
    for method, normalisation in sorted(groups, key=lambda key: (list(NAMES).index(key[0]), key[1] == "batch")):
        five, twenty = (groups[method, normalisation][way] for way in (5, 20))
        worst = f"{100 * statistics.mean(run['worst_tenth'] for run in five):.1f} %"
        mode = "transductive" if five[0]["transductive"] else "inductive"
        steps = f"{five[0]['steps']:,} steps" if five[0]["steps"] else "–"
        taken = seconds.get(f"{method}, {normalisation}")
        training = steps + (f", {taken:.0f} s" if taken else "")
        accuracies = [figure(five), worst, figure(twenty) if twenty else "–"]
        how = [f"{normalisation}, {mode}", str(len(five)), training, PAPERS.get(method, "–")]
        lines.append(f"| {' | '.join([NAMES[method], *accuracies, *how])} |")
    return lines


PAIRED = """
Differences on the same episodes, 95 % intervals over episodes: each of the {count} learners that were compared is
{pixels:.1f} points or more above pixels and {untrained:.1f} or more above an untrained network (lowest lower ends).
Meta-Networks, seeds {seeds}: accuracy minus that of {against} points. So the fast weights are used, but they did not
beat prototypes here.
"""


def pairs(paired: dict) -> list[str]:
    """The paired differences in words."""
    ours = paired["above_pixels_and_an_untrained_network"]
    lowest = {
        what: min(one[f"points_above_{what}"] - one[f"half_width_{what}"] for one in ours)
        for what in ("pixels", "untrained")
    }
    against = defaultdict(list)
    for one in paired["metanet"]:
        points = f"{one['points']:+.2f}".replace("-", "−")
        against[one["against"]].append(f"{points} ± {one['half_width']:.2f}")
    seeds = ", ".join(str(seed) for seed in sorted({one["seed"] for one in paired["metanet"]}))
    differences = "; ".join(f"{what}: {', '.join(points)}" for what, points in against.items())
    words = PAIRED.format(count=len(ours), **lowest, seeds=seeds, against=differences)
    return ["", *textwrap.wrap(words.strip(), 120, break_on_hyphens=False)]


SPEED = """
One second-order MAML step, how many times faster than the plain loop: one task after another by `functional_call` and
`autograd.grad`. Median of {rounds} interleaved rounds, smallest and largest in brackets; 2 cores, allocator tuned
(`devices.keep_freed_memory`); all gradients agree to {error:.0e} of their norm in float64. The machine, memory, growth
and the default allocator are in `data/results/bench_maml.json`; `mlcourse bench maml` measures yours.
"""


def speed(report: dict) -> list[str]:
    """The second table: a line for each way to take the step, a column for each workload."""
    workloads = report["workloads"]
    ways = [way for way in workloads["W1-q1"]["ways"] if way != "plain loop"]
    worst = max(work["ways"][way]["gradient_error"] for work in workloads.values() for way in ways)
    lines = [f"| | {' | '.join(workloads)} |", "|---" * (len(workloads) + 1) + "|"]
    for way in ways:
        faster = [work["ways"][way]["tuned allocator"]["times_faster_than_loop"] for work in workloads.values()]
        cells = [f"{one['median']:.2f} × ({one['least']:.2f}–{one['most']:.2f})" for one in faster]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return [*SPEED.format(rounds=report["rounds"], error=worst).splitlines(), "", *lines]


def table() -> str:
    """The whole text between the marks."""
    results, bench = (json.loads(path.read_text(encoding="utf-8")) for path in (SOURCE, BENCH))
    accuracy = rows(results["runs"], results["seconds_on_a_quiet_machine"])
    return "\n".join([HEAD, *accuracy, *pairs(results["paired"]), *speed(bench), "", END])


def updated(readme: str) -> str:
    """README with the table of today."""
    return readme[: readme.index(BEGIN)] + table() + readme[readme.index(END) + len(END) :]


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
