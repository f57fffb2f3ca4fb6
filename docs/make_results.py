"""The results page docs/results.md and its summary in README.md: `python docs/make_results.py`, from data/results.

Each protocol that has results in data/results/PROTOCOL has its table in short and its forest plot, in
docs/forest-PROTOCOL-light.svg and -dark.svg: the protocols of IN_README there, all others on the results page.

A test makes both anew and compares: no figure in them is typed by hand. Titles, papers and published figures of
the methods are those that the methods' own files register.
"""

import html
import json
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib

from mlcourse import files, protocols
from mlcourse.commands import table
from mlcourse.learners import METHODS, RelationNetwork
from mlcourse.statistics import student_interval
from mlcourse.teaching import forest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "data" / "results" / "omniglot.json"
BENCH = ROOT / "data" / "results" / "bench_maml.json"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
BEGIN = "<!-- results: begin (made by docs/make_results.py from data/results) -->"
END = "<!-- results: end -->"
TABLES = "<!-- results: tables -->"
NO_RESULT = "No result in this protocol yet"
IN_README = ("glyphs-5way-1shot", "omniglot-5way-1shot")
UNTRAINED = "untrained-"
SHORT = ("rank", "method", "accuracy", "over episodes", "over the data", "seeds", "normalisation", "steps")
DARK = {"text.color": "white", "axes.labelcolor": "white", "xtick.color": "white", "ytick.color": "white"}
DARK |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#0d1117")
DARK |= {"axes.edgecolor": "#999999", "grid.color": "#333333"}
HEAD = """# Results

<!-- made by docs/make_results.py from data/results -->

No figure here is typed by hand. How to measure one again: the commands stand in the files that are named.

## Accuracy on Omniglot

Omniglot, 1-shot, Vinyals split with rotations (each quarter turn of a character is a class of its own), trained for
5-way tasks from random weights by the recipe `short` (ANIL
with `batch`: half its steps, which validation classes preferred), the best step chosen on validation classes; 1,000
test episodes, 15 queries per class. There are two 95 % intervals. "Over runs" says how much the result changes with
another training (Student's t; only where there are several runs). "Over episodes" says how much it changes with other
test tasks; it is the mean of the runs' own intervals, and more runs do not make it smaller, because all runs of a row
answered the same episodes. Normalisation: batch normalisation takes its statistics from the training (running), from
the support images (support), or from all images at hand, queries too (batch). Inductive: each query is answered alone.
Transductive: the queries of a task influence each other. `data/results/omniglot.json` has each run, the commands and
the machine. Seconds: of one run on 2 quiet cores, where it was taken. Paper: 5-way and 20-way figures (%) of the
method's own paper, after its longer training. `data/results/glyphs.json` has the same for the embedded characters.
The tables of protocols have other trainings, so their figures differ a little.

| method | 5-way | worst tenth of the 5-way tasks | 20-way | normalisation | training | paper |
|---|---|---|---|---|---|---|"""


def figure(runs: list[dict]) -> str:
    """The mean accuracy in percent, with both sources of what it may be off by: training runs, and episodes."""
    accuracy, half = student_interval([run["accuracy"] for run in runs])
    episodes = f"± {100 * mean(run['ci95'] for run in runs):.2f} over episodes"
    over_runs = f"± {100 * half:.2f} over {len(runs)} runs, " if len(runs) > 1 else ""
    return f"{100 * accuracy:.2f} % {over_runs}{episodes}"


def title(method: str) -> str:
    """A method's name in the table."""
    name = method.removeprefix(UNTRAINED)
    known = METHODS[name].title if name in METHODS else name
    return known if name == method else f"{known}, untrained"


def paper(method: str) -> str:
    """A link to the method's paper, and its published figures for 5 and 20 ways."""
    if method not in METHODS or METHODS[method].paper is None:
        return "–"
    cited, published = METHODS[method].paper, METHODS[method].published
    figures = [published.get(f"omniglot {way}-way 1-shot") for way in (5, 20)]
    told = (
        ": " + ", ".join("–" if one is None else f"{one:.2f}".removesuffix("0") for one in figures)
        if any(figures)
        else ""
    )
    return f"[{cited.short}]({cited.link}){told}"


def rows(runs: list[dict], seconds: dict[str, float]) -> list[str]:
    """A line per method and normalisation: what needs no training first, then the most accurate method first."""
    groups = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run["method"], run["normalisation"]][run["way"]].append(run)
    best = defaultdict(float)
    for (method, _), ways in groups.items():
        best[method] = max(best[method], *(run["accuracy"] for run in ways[5]))
    trained = {method: any(run["steps"] for run in runs if run["method"] == method) for method in best}
    lines = []
    for method, normalisation in sorted(groups, key=lambda key: (trained[key[0]], -best[key[0]], key)):
        five, twenty = (groups[method, normalisation][way] for way in (5, 20))
        worst = f"{100 * mean(run['worst_tenth'] for run in five):.1f} %"
        mode = "transductive" if five[0]["transductive"] else "inductive"
        steps = f"{five[0]['steps']:,} steps" if five[0]["steps"] else "–"
        taken = seconds.get(f"{method}, {normalisation}")
        training = steps + (f", {taken:.0f} s" if taken else "")
        cells = [title(method), figure(five), worst, figure(twenty) if twenty else "–"]
        lines.append(f"| {' | '.join([*cells, f'{normalisation}, {mode}', training, paper(method)])} |")
    return lines


SUMMARIZED = """\
Omniglot (handwritten characters), 5-way 1-shot (five characters, one picture of each), {episodes:,} test tasks of
characters that no training saw: {untrained} without training; trained by the recipe `short`, from
{worst} to {best}. One second-order MAML step of the package on pictures is {least:.1f} to {most:.1f} times as fast as
a loop over the tasks in plain PyTorch, on two cores. [All methods, their intervals and settings, and their papers'
figures](docs/results.md)
"""
SUMMARIZED_PROTOCOL = "omniglot-5way-1shot"


def summary(bench: dict) -> list[str]:
    """What README says of the results, in five lines; nothing where there is none of the protocol."""
    measured = [row for one, ran in compared() if one.name == SUMMARIZED_PROTOCOL for row in ran if row.run]
    measured.sort(key=lambda row: row.accuracy)
    short = [row for row in measured if row.first.budget == "short" and not row.first.settings.get("distort")]
    trained = [row for row in short if not (row.first.seen or row.first.transductive)]
    untrained = [row for row in measured if not row.first.steps]
    if not (trained and untrained):
        return []
    faster = [
        work["ways"]["side by side"]["tuned allocator"]["times_faster_than_loop"]["median"]
        for work in bench["workloads"].values()
        if work["workload"]["network"] == "conv4"
    ]
    words = SUMMARIZED.format(
        episodes=protocols.read(SUMMARIZED_PROTOCOL).episodes,
        untrained=_told(untrained[-1]),
        worst=_told(trained[0]),
        best=_told(trained[-1], trained[:-1]),
        least=min(faster),
        most=max(faster),
    )
    return textwrap.wrap(words, 120, break_on_hyphens=False, break_long_words=False)


def _told(row: protocols.Row, others: Sequence[protocols.Row] = ()) -> str:
    """A method and its accuracy in words: "98.4 % (prototypical networks; 2 others share its rank)"."""
    level = sum(other.rank == row.rank for other in others)
    shared = f"; {level} {'other shares' if level == 1 else 'others share'} its rank" if level else ""
    return f"{100 * row.accuracy:.1f} % ({title(row.method)}{shared})"


# Meta-Networks are compared with these (data/results/omniglot.json, "paired"): one asks whether what was written for
# this episode matters, the other whether writing it was worth more than taking means.
OTHER = "fast weights of another episode"
TWIN = "the same slow network trained with a prototype head by the same recipe"
PAIRED = """
Differences on the same episodes, 95 % intervals over episodes: each of the {count} learners that were compared is
{pixels:.1f} points or more above pixels and {untrained:.1f} or more above an untrained network of seed 1 (the
smallest lower end of the intervals).
Meta-Networks (slow network, fast weights: notebook 04), seeds {seeds}: accuracy minus that of {against} points.
{verdict}
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
        against[one["against"]].append(one)
    seeds = ", ".join(str(seed) for seed in sorted({one["seed"] for one in paired["metanet"]}))
    differences = "; ".join(
        f"{what}: {', '.join(points(one['points'], one['half_width']) for one in runs)}"
        for what, runs in against.items()
    )
    told = verdict(against[OTHER], against[TWIN])
    words = PAIRED.format(count=len(ours), **lowest, seeds=seeds, against=differences, verdict=told)
    return ["", "## Differences on the same tasks", "", *textwrap.wrap(words.strip(), 120, break_on_hyphens=False)]


def points(difference: float, half: float) -> str:
    """A difference with its interval: "−0.45 ± 0.22"."""
    return f"{difference:+.2f} ± {half:.2f}".replace("-", "−")


def verdict(other: list[dict], twin: list[dict]) -> str:
    """What the runs say of Meta-Networks: whether the fast weights are used, and whether they beat prototypes."""
    used, _, _ = _sides(other)
    above, below, open_ = _sides(twin)
    difference, half = student_interval([one["points"] for one in twin])
    over_runs = f" ({points(difference, half)} over the runs)" if len(twin) > 1 else ""
    half = half if len(twin) > 1 else twin[0]["half_width"]
    beat = "they beat" if difference > half else "they lost to" if difference < -half else "they did not beat"
    return (
        f"So the fast weights of the episode are used in {used} of {_runs(len(other))}; against prototypes trained in "
        f"the same way they are ahead in {above}, behind in {below}, undecided in {open_}: {beat} prototypes "
        f"here{over_runs}."
    )


def _sides(runs: list[dict]) -> tuple[int, int, int]:
    """In how many runs the interval lies above 0, below it, around it."""
    above = sum(one["points"] > one["half_width"] for one in runs)
    below = sum(-one["points"] > one["half_width"] for one in runs)
    return above, below, len(runs) - above - below


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


SPEED = """
## Speed

One second-order MAML step, how many times faster than the plain loop: one task after another by `functional_call` and
`autograd.grad`. "Side by side" is the package's way. All are 5-way. W1: 1-shot, 32 tasks, one inner step, 28 × 28
pixels, 1 query per class (q1) or 15 (q15); W2: 5-shot, 15 queries, 4 tasks, 5 inner steps; W3: as W2 on colour pictures
of 84 × 84; MLP: two layers of 40, 25 tasks, 5 inner steps. Median of {rounds} interleaved rounds, smallest and largest
in brackets; 2 cores, allocator tuned (`devices.keep_freed_memory`); all gradients agree to {error:.0e} of their norm in
float64. The machine, memory, growth and the default allocator are in `data/results/bench_maml.json`; `mlcourse bench
maml` measures yours.
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


def page() -> str:
    """The whole results page."""
    results, bench = _sources()
    accuracy = rows(results["runs"], results["seconds_on_a_quiet_machine"])
    others = [(one, of_it) for one, of_it in compared() if one.name not in IN_README]
    tables = [line for pair in others for line in comparison(*pair, folder="")]
    if others:
        tables = ["", "## Tables of the other protocols", "", *_wrapped(OTHERS), "", *_wrapped(READ), *tables]
    return "\n".join([HEAD, *accuracy, *pairs(results["paired"]), *speed(bench), *tables, ""])


def compared() -> list[tuple[protocols.Protocol, list[protocols.Row]]]:
    """The protocols that have results of the course's own, with their rows."""
    every = [(one, protocols.stored(one, protocols.folders(one)[0])) for one in map(protocols.read, protocols.names())]
    return [(one, protocols.rows(one, results)) for one, results in every if results]


READ = """`glyphs` are the course's own data: characters of many scripts, drawn from fonts. A *protocol* is a file that
fixes the test tasks, and each table is of one. A row with one training (*seeds*: 1) ranks a network, not a method
(notebook 12 shows why). *Over episodes* says how far the accuracy may lie from that of other tasks of the same test
images, *over the data* from that of other scripts, alphabets or classes (the plot says which). A method shares the
rank of the best one of that rank where the difference of these two, on the same tasks, has a 95 % interval over
episodes that holds 0: on other data the order may be another one. Normalisation (in a plot in brackets): batch
normalisation takes its statistics from the training (running), from the support images (support), or from all images
at hand, queries too (batch); or there is no network (none). Inductive: each query is answered alone. Transductive: the
queries of a task influence each other, so there is more to go by. Vinyals split: the characters for training,
validation and test are those of Vinyals et al. 2016. With rotations: each quarter turn of a character is a class of
its own."""
OTHERS = """A *protocol* is a fixed list of test tasks: [what each one asks](../data/protocols), and how to add a row.
Some stand in [README](../README.md); here are all others. A trained network was trained for 5-way 1-shot tasks (within
an alphabet: for 20-way ones; its training tasks may have more classes), also where a test has 20 ways or 5 shots;
SimpleShot was trained on no tasks, but to tell all training classes apart. On Caltech-101 a step has nine times as many
pixels, so these trainings are shorter than the recipe `short`: 1,500 steps with 20 classes each (relation networks:
10), and for SimpleShot as many pictures. With *views* or *symmetries* the same network sees each test picture several
times ([README](../README.md), *Several views*). Guessing is right in one of as many cases as a task has ways. Where a
table has baselines only, nobody has evaluated a trained network yet."""
ABROAD = """The trained networks did not all see the same pictures (*trained on*): where that differs, the order says
nothing of the methods."""
# What a reader of a table with more shots has to know.
SUMS = """Relation networks add up the maps of a class, as their authors do. {which} was trained on one map per class,
and meets the sum of {shot} here: a likely reason for its place. Train it at as many shots as it will be tested with."""
ENCODERS = """The encoders differ: that of {which} pools, where the convolutions of the others take strides, which is
quicker. So the order of these methods may be that of their encoders."""
EARLIER = dict.fromkeys(
    ("omniglot-5way-1shot", "omniglot-20way-1shot"),
    "Some of these methods were trained: their results, measured before there was a protocol, stand on the results "
    "page, under *Accuracy on Omniglot*.",
)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False, break_long_words=False)


def sums_maps(method: str) -> bool:
    """Whether a method adds up the maps of a class, as relation networks do."""
    return method in METHODS and issubclass(METHODS[method].learner, RelationNetwork)


def sums(protocol: protocols.Protocol, ran: list[protocols.Row]) -> str:
    """What stands beside a table with more shots, where relation networks were trained with one; else nothing."""
    shots = [row.first.settings.get("shot", 1) for row in ran if sums_maps(row.method)]
    if protocol.shot == 1 or 1 not in shots:
        return ""
    return SUMS.format(which="This one" if shots == [1] else "The one of one shot", shot=protocol.shot)


def encoders(ran: list[protocols.Row]) -> str:
    """What stands beside a table whose trained networks make their maps smaller in different ways; else nothing."""
    trained = [row for row in ran if row.first.steps]
    pooled = [row.method for row in trained if row.first.settings["options"].get("downsample") == "pool"]
    if len(pooled) in (0, len(trained)):
        return ""
    return ENCODERS.format(which=" and ".join(title(method) for method in dict.fromkeys(pooled)))


def comparison(protocol: protocols.Protocol, rows: list[protocols.Row], folder: str = "docs/") -> list[str]:
    """A protocol: the picture, which lies in `folder` of the page, the table in short, and who has not run."""
    lines, name = table.forest_lines(rows), f"{folder}forest-{protocol.name}"
    text = forest.alt(lines, title=protocol.name)
    ran = [row for row in rows if row.run]
    made = [table.cells(protocol, row) for row in ran]
    data = {row.first.trained_on for row in ran} - {None}
    abroad = len(data) > 1 or any(one.split()[0] != protocol.dataset for one in data)
    columns = (*SHORT, "trained on") if abroad else SHORT
    waiting = [row.title for row in rows if not row.run]
    return [
        "",
        f"**{protocol.name}**: {protocol.what} (`mlcourse table {protocol.name}` has all columns)",
        "",
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.svg">'
        f'<img src="{name}-light.svg" alt="{html.escape(text)}"></picture>',
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(one[column] for column in columns)} |" for one in made),
        *(["", *_wrapped(ABROAD)] if len(data) > 1 else []),
        *(["", *_wrapped(told)] if (told := f"{sums(protocol, ran)} {encoders(ran)}".strip()) else []),
        *(["", *_wrapped(f"{NO_RESULT}: {'; '.join(waiting)}. {EARLIER.get(protocol.name, '')}")] if waiting else []),
    ]


def draw(protocol: protocols.Protocol, rows: list[protocols.Row], folder: Path) -> None:
    """The forest plot, for light and for dark pages."""
    lines = table.forest_lines(rows)
    text = forest.alt(lines, title=protocol.name)
    for page, colours in (("light", {}), ("dark", DARK)):
        path = folder / f"forest-{protocol.name}-{page}.svg"
        with matplotlib.rc_context({"svg.hashsalt": protocol.name} | colours), files.replacing(path) as temporary:
            figure = forest.forest(lines, title=protocol.name, clusters=protocol.clusters)
            figure.savefig(temporary, format="svg", metadata=forest.metadata("svg", text))


def updated(readme: str) -> str:
    """README with the summary of today."""
    shown = [(one, of_it) for one, of_it in compared() if one.name in IN_README]
    note = ["", TABLES, "", *_wrapped(READ)] if shown else []
    shown = [*note, *(line for pair in shown for line in comparison(*pair))]
    lines = "\n".join([BEGIN, "", *summary(_sources()[1]), *shown, "", END])
    return readme[: readme.index(BEGIN)] + lines + readme[readme.index(END) + len(END) :]


def _sources() -> tuple[dict, dict]:
    """What was measured: accuracies, speed."""
    results, bench = (json.loads(path.read_text(encoding="utf-8")) for path in (SOURCE, BENCH))
    return results, bench


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for protocol, rows_of_it in compared():
        draw(protocol, rows_of_it, PAGE.parent)
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
