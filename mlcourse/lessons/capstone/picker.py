"""Which method do the course's own figures speak for? A choice of five answers, a method, and the rows behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from mlcourse.lessons.capstone import stored
from mlcourse.lessons.capstone.stored import Measured
from mlcourse.teaching import figures

TASKS = ("name characters", "name photos", "mark pixels", "find boxes", "recognise faces")
CLASSES = ("none like mine", "a few (5)", "dozens (80)", "hundreds")
COMPUTE = ("no training", "a minute", "minutes or more")
CHOICES = {"task": list(TASKS), "training_classes": list(CLASSES), "shots": [1, 5], "pre_trained": False}
CHOICES["compute"] = list(COMPUTE)
START = {"task": TASKS[0], "training_classes": CLASSES[0], "shots": 1, "pre_trained": False, "compute": COMPUTE[0]}
# The measured methods for which nobody has to train anything: fixed features, random weights, or weights that others
# have trained, with a head that each task fits by itself.
UNTRAINED = frozenset({
    "pixels",
    "edges",
    "untrained-prototypical",
    "template-matching",
    "untrained-colour-groups",
    "pixel-boxes",
    "random",
    "frozen",
    "frozen simpleshot",
    "frozen rfs",
    "frozen pretrained-ridge",
})  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """A method, why in a sentence, and the rows that say so, the best first; near: they are of a similar case only."""

    method: str
    why: str
    rows: Sequence[Measured]
    near: str = ""


def advise(task: str, training_classes: str, shots: int, pre_trained: bool, compute: str) -> Advice:
    """The advice for a choice out of TASKS, CLASSES, 1 or 5 shots, and COMPUTE."""
    if task in TASKS[:2]:
        return _naming(task, training_classes, shots, pre_trained, compute)
    none = compute == COMPUTE[0]
    if task == TASKS[3] and pre_trained and not none and training_classes != CLASSES[0]:
        return _boxes_in_photos(shots)
    near = "" if shots == 1 else "Measured with one picture that teaches; more of them were not."
    rows = {
        TASKS[2]: lambda: stored.segments(photos=pre_trained),
        TASKS[3]: stored.detects,
        TASKS[4]: stored.recognises,
    }[task]()
    rows = _sorted(rows)
    if task == TASKS[2] and pre_trained:
        why = "Features that were learned from many photos carry over to photos."
        first = next(row for row in rows if not none or row.method in UNTRAINED)
        return Advice(stored.title(first.method), why, rows, f"{stored.seen_before()} {near}".strip())
    if pre_trained:
        here = "A pre-trained network was not measured for this task."
        near = f"{stored.boxes_need_a_head() if task == TASKS[3] else here} {near}".strip()
    if none or training_classes in CLASSES[:2]:
        left = next(row for row in rows if row.method in UNTRAINED)
        why = "With hardly any training classes, or without training, this is what is left; see what it gives up."
        return Advice(stored.title(left.method), why, rows, near)
    why = {
        TASKS[2]: "Here the class-agnostic part is given by colours, and an encoder trained on tasks compares.",
        TASKS[3]: "Here the class-agnostic part is given by colours, and an encoder trained on tasks compares.",
        TASKS[4]: "A loss over all training people, with a margin; several networks together are surer.",
    }[task]
    return Advice(stored.title(rows[0].method), why, rows, near)


def _boxes_in_photos(shots: int) -> Advice:
    """Boxes in photos, with a pre-trained network: measured with 1, 3 and 10 examples of a new class, not with 5."""
    examples = 1 if shots == 1 else 10
    rows = _sorted(stored.detects_in_photos(examples))
    near = stored.boxes_in_photos()
    if shots != examples:
        near += f" {shots} examples were not measured: these rows have {examples}."
    return Advice(stored.title(rows[0].method), stored.lead_on_boxes(examples), rows, near)


def _naming(task: str, training_classes: str, shots: int, pre_trained: bool, compute: str) -> Advice:
    photos = task == TASKS[1]
    if photos and pre_trained:
        near = stored.photos_seen_before() + (" Measured with one picture that teaches." if shots > 1 else "")
        why = "Many photos were seen already, by somebody."
        return _honest(_sorted(stored.names_photos()), why, near, compute == COMPUTE[0])
    note = "" if not pre_trained else f"A network pre-trained on photos is far from home: {stored.far_from_photos()} "
    if photos:
        if training_classes in CLASSES[2:]:
            note += "The networks of these rows learned from photos of other classes of the collection, for minutes."
            rows = _sorted(stored.taught_by_photos(shots))
            return _honest(rows, stored.lead_of_photos(rows), note, compute == COMPUTE[0])
        note += "The networks of these rows learned from characters: no photo was like the training."
        note += "" if shots == 1 else " With five pictures of each class they were not compared."
        rows = _sorted(stored.shifted("caltech101-5way-1shot", "photos (Caltech-101), 5-way 1-shot"))
        why = "Nothing that was trained resembles the task, so be slow to trust a learned metric."
        return _honest(rows, why, note, compute == COMPUTE[0])
    if compute == COMPUTE[0] or training_classes == CLASSES[0]:
        return _untrained(shots, note)
    if training_classes in CLASSES[1:3]:
        return _by_classes(training_classes, shots, note)
    if compute == COMPUTE[1]:
        rows = stored.shifted("glyphs-5way-1shot", "new characters, 5-way 1-shot, trained for half a minute")
    else:
        rows = stored.long_training()
    note += "" if shots == 1 else "These rows are 1-shot; with five shots all rise, and the order may change."
    return _honest(_sorted(rows), "Hundreds of training classes like the new ones: compare in a learned space.", note)


def _untrained(shots: int, note: str) -> Advice:
    exam = f"characters, {shots}-shot"
    rows = _sorted(
        [Measured(n, v, None, f"new {exam}, 5-way", "capstone.json") for n, v in stored.untrained(exam).items()]
    )
    return Advice(stored.title("edges"), "Nothing is trained; edges move less than pixels do.", rows, note)


def _by_classes(training_classes: str, shots: int, note: str) -> Advice:
    exam, count = f"characters, {shots}-shot", {CLASSES[1]: 5, CLASSES[2]: 80}[training_classes]
    curve = stored.by_classes(exam)
    learned = curve.mean[curve.classes.index(count)]
    what = f"new {exam}, 5-way"
    rows = [Measured(name, value, None, what, "capstone.json") for name, value in stored.untrained(exam).items()]
    rows = _sorted([*rows, Measured(f"prototypical network, {count} classes", learned, None, what, "capstone.json")])
    first = rows[0].method
    if first == "edges":
        return Advice(
            stored.title("edges"), f"{count} training classes are too few to learn how to compare.", rows, note
        )
    return Advice("prototypical network", f"{count} training classes already pay for the training.", rows, note)


def _honest(rows: list[Measured], why: str, note: str, no_training: bool = False) -> Advice:
    """The first row, and with it those that cannot be told from it; no_training: of the untrained rows."""
    allowed = [row for row in rows if row.method in UNTRAINED] if no_training else rows
    first, *others = allowed
    tied = [row for row in others if first.tied(row)]
    if first != rows[0]:
        why = "Nothing is trained, so the best row without training is taken; see what it gives up."
    names = " or ".join(stored.title(row.method) for row in (first, *tied))
    return Advice(names, why + (" They cannot be told apart: take the cheapest." if tied else ""), rows, note.strip())


def _sorted(rows: Sequence[Measured]) -> list[Measured]:
    return sorted(rows, key=lambda row: -row.better * row.value)


# ------------------------------------------------------------------ the picture


def draw(fig: Figure | None = None, **chosen) -> tuple[Figure, str]:
    """The rows behind the advice as bars, and the advice in words."""
    advice = advise(**chosen)
    fig = Figure(figsize=(7.2, 3.4), layout="none") if fig is None else fig
    fig.clear()
    ax = fig.subplots()
    rows = list(advice.rows)[:8]
    for place, row in enumerate(rows):
        half = None if row.ci is None else 100 * row.ci
        ax.barh(place, 100 * row.value, xerr=half, color=figures.COLOURS[0 if place == 0 else 5], height=0.6)
        ax.annotate(
            f"{100 * row.value:.1f}", (0.8, place), va="center", color="white" if place == 0 else "black", fontsize=10
        )
    ax.set(
        yticks=range(len(rows)), yticklabels=[_name(row) for row in rows], xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6)
    )
    ax.set_xlabel(f"{rows[0].what} (%)", fontsize=9)
    ax.tick_params(labelsize=9)
    ax.set_title(_short(advice.method, 44), fontsize=11, loc="left")
    fig.subplots_adjust(left=0.44, right=0.97, bottom=0.17, top=0.88)
    return fig, words(**chosen)


def _name(row: Measured) -> str:
    return _short(stored.TITLES.get(row.method, row.method), 44)


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def words(**chosen) -> str:
    """The advice in words, with its source."""
    advice = advise(**chosen)
    near = f" {advice.near}" if advice.near else ""
    source = ", ".join(dict.fromkeys(f"data/results/{row.source}" for row in advice.rows))
    return f"The figures speak for: {advice.method}. {advice.why}{near} Source: {source}."


def text(**chosen) -> str:
    """The picture in words."""
    advice = advise(**chosen)
    told = "; ".join(map(str, list(advice.rows)[:8]))
    return f"Bars of {advice.rows[0].what}: {told}. The figures speak for: {advice.method}."
