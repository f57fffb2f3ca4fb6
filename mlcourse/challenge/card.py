"""The score card: what it says, how it is written, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcourse import files
from mlcourse.challenge.scoring import Score
from mlcourse.protocols.comparison import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIGITS = 6  # of the figures in card.json
JSON, PNG = "card.json", "card.png"


@dataclass(frozen=True)
class Part:
    """The figures of one domain. hidden: whether it counts for the score (the learner's own folder does not)."""

    name: str
    hidden: bool
    score: Score


@dataclass(frozen=True)
class Rival:
    """One of the course's own methods on the same episodes. lead: the submission's score minus this one, paired."""

    name: str
    score: Score
    lead: float
    lead_half: float

    @property
    def verdict(self) -> str:
        """Who is ahead, or that nothing tells the two apart."""
        if abs(self.lead) <= self.lead_half:
            return "tied"
        return "submission ahead" if self.lead > 0 else "submission behind"


@dataclass(frozen=True)
class Card:
    """The result of one submission. The same submission, seed, episodes and pictures give the same card to the byte.

    weights: where they come from. training_flop: None where it is not known. left_out: domains without pictures here.
    """

    submission: str
    learner: str
    digest: str
    track: str
    seed: int
    episodes: int  # of each domain
    weights: str
    training_flop: int | None
    training_budget: float | None  # None: not limited (track open)
    episode_budget: float
    score: Score
    domains: tuple[Part, ...]
    rivals: tuple[Rival, ...]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """All fields, for the file; figures have six digits after the point."""
        return _rounded(asdict(self))

    def lines(self) -> list[str]:
        """The card as lines of text, for a terminal."""
        said = [f"{self.submission} ({self.learner}), track {self.track}, seed {self.seed}", self.headline, self.about]
        said += [
            "",
            f"{'domain':<26}{'score':>8}{'± episodes':>11}{'± clusters':>13}{'worst 1/10':>12}{'calibration':>13}",
        ]
        said += [_row(one.name + ("" if one.hidden else " (no score)"), one.score) for one in self.domains]
        said += ["", "the course's own methods, on the same episodes:"]
        said += [
            f"{one.name:<34}{one.score.value:>z8.3f}   your lead {one.lead:+z.3f} ± {one.lead_half:.3f}: {one.verdict}"
            for one in self.rivals
        ]
        return [*said, *(f"left out: {one}" for one in self.left_out)]

    @property
    def headline(self) -> str:
        """The score with its two intervals, the worst tenth and the calibration error."""
        one = self.score
        return (
            f"score {one.value:z.3f} (0 chance, 1 perfect): ± {one.over_episodes:.3f} over episodes, "
            f"{_half(one.over_clusters)} over {one.clusters} scripts and classes; worst tenth {one.worst_tenth:z.3f}, "
            f"calibration error {one.calibration_error:.3f}"
        )

    @property
    def about(self) -> str:
        """Where the weights come from, and the FLOP."""
        training = "not known" if self.training_flop is None else f"{short(self.training_flop)} FLOP"
        return f"weights: {self.weights}; training {training}, an episode {short(self.score.flop)} FLOP"

    @property
    def alt(self) -> str:
        """The alternative text of the picture."""
        rivals = "; ".join(f"{one.name} {one.score.value:z.3f} ({one.verdict})" for one in self.rivals)
        domains = "; ".join(f"{one.name} {one.score.value:z.3f}" for one in self.domains)
        return f"Score card of {self.submission}: {self.headline}. Domains: {domains}. The course's methods: {rivals}."

    def figure(self) -> Figure:
        """The card as a picture."""
        return draw_card(self)

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write card.json and card.png into a folder, each whole or not at all."""
        from mlcourse.teaching import figures

        folder, picture = Path(folder), figures.png(self.figure())
        files.write_json(folder / JSON, self.as_json())
        with files.replacing(folder / PNG) as temporary:
            temporary.write_bytes(picture)
        return folder / JSON, folder / PNG


def draw_card(card: Card) -> Figure:
    """The card as a picture: the submission among the course's methods, and its domains. Its text is `card.alt`."""
    from matplotlib import style

    from mlcourse.teaching import figures

    with style.context(["default", figures.STYLE]):  # whatever a notebook has set
        height = 3.1 + 0.34 * max(len(card.rivals) + 1, len(card.domains)) + 0.16 * len(card.left_out)
        fig, (left, right) = figures.subplots(1, 2, size=(11, height))
        board = sorted([("you: " + card.submission, card.score), *((one.name, one.score) for one in card.rivals)],
                       key=lambda one: one[1].value)  # fmt: skip
        _intervals(left, board, "the same episodes for all")
        _intervals(right, [(one.name, one.score) for one in reversed(card.domains)], "your domains")
        fig.suptitle(_plain("\n".join(_title(card))), x=0.01, ha="left", fontsize=11)
        below = "thick: 95 % over episodes; thin: 95 % over scripts or classes"
        fig.supxlabel(_plain("\n".join([below, *(f"left out: {one}" for one in card.left_out)])), fontsize=9)
        return fig


def _title(card: Card) -> list[str]:
    one = card.score
    name = f"{card.submission} ({card.learner}), track {card.track}, seed {card.seed}, digest {card.digest}"
    score = (
        f"score {one.value:z.3f}   ± {one.over_episodes:.3f} over episodes, {_half(one.over_clusters)} over scripts "
        f"and classes   worst tenth {one.worst_tenth:z.3f}   calibration error {one.calibration_error:.3f}"
    )
    return [name, score, card.about]


def _intervals(axes: Any, rows: Sequence[tuple[str, Score]], title: str) -> None:
    for place, (name, score) in enumerate(rows):
        colour = "#D55E00" if name.startswith("you: ") else "#0072B2"
        if score.over_clusters is not None:
            axes.errorbar(
                score.value, place, xerr=score.over_clusters, color=colour, elinewidth=1, capsize=3, fmt="none"
            )
        axes.errorbar(score.value, place, xerr=score.over_episodes, color=colour, elinewidth=3.5, capsize=0, marker="o")
    axes.axvline(0, color="#444444", linewidth=1, linestyle=":")
    axes.set(yticks=range(len(rows)), yticklabels=[_shortened(name) for name, _ in rows], ylim=(-0.6, len(rows) - 0.4))
    axes.set(xlim=(-0.1, 1.02), xlabel="normalised accuracy (0 chance, 1 perfect)", title=title)
    axes.tick_params(labelsize=10)


def _shortened(name: str, most: int = 26) -> str:
    return _plain(name if len(name) <= most else f"{name[: most - 1]}…")


def _plain(text: str) -> str:
    """A text as matplotlib draws it to the letter: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _row(name: str, one: Score) -> str:
    halves = f"± {one.over_episodes:.3f}", _half(one.over_clusters)
    rest = f"{one.worst_tenth:>z12.3f}{one.calibration_error:>13.3f}"
    return f"{name:<26}{one.value:>z8.3f}{halves[0]:>11}{halves[1]:>13}{rest}"


def _half(half: float | None) -> str:
    return "no interval" if half is None else f"± {half:.3f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value
