"""The results table of README.md, made from data/results/omniglot.json: `python docs/make_results.py`.

A test makes the table anew and compares: no figure in it is typed by hand.
"""

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, README = ROOT / "data" / "results" / "omniglot.json", ROOT / "README.md"
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
HEAD = f"""{BEGIN} (made by docs/make_results.py from data/results/omniglot.json) -->

Omniglot, 1-shot, Vinyals split with rotations, trained for 5-way tasks from random weights at the budget `short`, the
best step chosen on validation classes; 1,000 test episodes, 15 queries a class. Mean ± 95 % interval over training
runs; where there is one run, over its episodes. `data/results/omniglot.json` has each run, the commands and the
machine. Seconds: of one run on 2 quiet cores, where it was taken.

| method | 5-way | worst tenth of the 5-way tasks | 20-way | normalisation | runs | training |
|---|---|---|---|---|---|---|"""
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
        cells = [NAMES[method], figure(five), worst, figure(twenty) if twenty else "–"]
        lines.append("| " + " | ".join([*cells, f"{normalisation}, {mode}", str(len(five)), training]) + " |")
    return lines


def table() -> str:
    """The whole text between the marks."""
    results = json.loads(SOURCE.read_text(encoding="utf-8"))
    return "\n".join([HEAD, *rows(results["runs"], results["seconds_on_a_quiet_machine"]), "", END])


def updated(readme: str) -> str:
    """README with the table of today."""
    return readme[: readme.index(BEGIN)] + table() + readme[readme.index(END) + len(END) :]


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
