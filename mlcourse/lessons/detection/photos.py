"""Photos in notebook 14: what `data/make_detection_photos.py` measured on playing cards, as lines and as a picture."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from mlcourse import files, places
from mlcourse.teaching import figures

STORED = "detection_photos.json"  # in data/results
SYSTEMS = {
    "frozen": "frozen network, prototypes",
    "random": "random network, prototypes",
    "fine-tuning": "fine-tuned last layer",
    "logistic": "logistic regression, frozen",
    "alike": "frozen, as few known ones",
}
KINDS = {"new": "two new ranks", "known": "four known ranks"}


def kept() -> dict[str, Any]:
    """All that was measured."""
    return files.read_json(places.data() / "results" / STORED)


def shots() -> list[int]:
    """With how many examples of each new rank it was measured."""
    return [int(name.split()[0]) for name in next(iter(kept()["systems"].values()))]


def row(system: str, kind: str) -> list[tuple[float, float]]:
    """AP50 of a system on ranks of a kind, for each number of examples: (value, half of its 95 % interval)."""
    found = [one[kind]["AP50"] for one in kept()["systems"][system].values()]
    return [(value, (high - low) / 2) for value, low, high in found]


def stored() -> str:
    """AP50 of the new ranks, a line for each system."""
    made = kept()
    count = ", ".join(map(str, shots()))
    lines = [f"stored: {made['data']}; AP50 of new ranks, {count} examples, 95 % intervals over photos and draws"]
    for system, words in SYSTEMS.items():
        told = ", ".join(f"{value:.2f} ± {half:.2f}" for value, half in row(system, "new"))
        lines.append(f"{words:28} {told}")
    return "\n".join(lines)


def leads() -> str:
    """How far the first system lies above each other, paired, on new and on known ranks; then `undecided`."""
    lines = []
    for system, words in list(SYSTEMS.items())[1:]:
        for kind in KINDS:
            found = [one[kind]["frozen minus this"] for one in kept()["systems"][system].values()]
            told = ", ".join(f"{value:+.2f} ({low:+.2f} to {high:+.2f})" for value, low, high in found)
            lines.append(f"minus {words:28} {kind:5} {told}")
    return "\n".join([*lines, undecided()])


def undecided() -> str:
    """Where the interval of such a lead holds 0, in a sentence."""
    found = []
    for kind in KINDS:
        for system, words in list(SYSTEMS.items())[1:]:
            pairs = [one[kind]["frozen minus this"] for one in kept()["systems"][system].values()]
            held = [str(count) for count, (_, low, high) in zip(shots(), pairs, strict=True) if low <= 0 <= high]
            if held:
                noun = "example" if held == ["1"] else "examples"
                found.append(f"{words}, {kind} ranks, with {' and '.join(held)} {noun}")
    return f"The interval holds 0 (nobody is shown to be ahead): {'; '.join(found) or 'nowhere'}."


def alike() -> str:
    """The lead over fine-tuning where both see as few examples of the known ranks, too, in a sentence."""
    rows = kept()["systems"]["fine-tuning"].values()
    told = []
    for kind in KINDS:
        pairs = [one[kind]["alike minus this"] for one in rows]
        told.append(
            f"{kind} ranks " + ", ".join(f"{value:+.2f} ({low:+.2f} to {high:+.2f})" for value, low, high in pairs)
        )
    return f"With as few examples of the known ranks as fine-tuning has, frozen minus fine-tuned: {'; '.join(told)}."


def far() -> str:
    """The blood cells: AP50 with the boxes of a head that saw cards only, and with the true boxes."""
    cells = kept()["blood cells"]
    lines = [f"blood cells, AP50 with {shots()[-1]} examples ± standard deviation over the draws (no interval)"]
    for boxes in ("boxes of the head", "true boxes"):
        last = {system: list(cells[boxes][system].values())[-1] for system in ("frozen", "random")}
        told = ", ".join(f"{system} {value:.2f} ± {spread:.2f}" for system, (value, spread) in last.items())
        lines.append(f"blood cells, {boxes:17} {told}")
    return "\n".join(lines)


def picture() -> Figure:
    """AP50 against the number of examples: new ranks on the left, known ones on the right."""
    fig, axes = figures.subplots(1, 2, size=(9.2, 3.6), sharey=True)
    count = shots()
    for ax, (kind, words) in zip(axes, KINDS.items(), strict=True):
        for index, (system, name) in enumerate(SYSTEMS.items()):
            mean, half = zip(*row(system, kind), strict=True)
            figures.curve_with_band(ax, count, mean, half, label=name, index=index)
        ax.set(xscale="log", ylim=(-0.02, 1.02), xlabel="examples of each new rank", title=words)
        ax.minorticks_off()
        ax.set(xticks=count, xticklabels=count)
    axes[0].set_ylabel("AP50")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return fig


def text() -> str:
    """The picture of `picture` in words."""
    count = shots()
    told = []
    for kind, words in KINDS.items():
        each = "; ".join(
            f"{name} " + ", ".join(f"{value:.2f}" for value, _ in row(system, kind)) for system, name in SYSTEMS.items()
        )
        told.append(f"{words}: {each}")
    return f"AP50 on photos of playing cards with {', '.join(map(str, count))} examples. " + ". ".join(told) + "."
