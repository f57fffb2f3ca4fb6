"""Speak with the process of a submission, and trust nothing that it says."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mlcourse import places
from mlcourse.challenge import rules
from mlcourse.challenge.domains import training
from mlcourse.challenge.rules import Budget
from mlcourse.challenge.submissions import Submission
from mlcourse.classroom.sandbox import Limits, Sandbox, Stopped
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError, printable

LARGEST = 1e30  # of a logit
MOST_FLOP = 10**18  # what a process may say that it has computed


class Refused(CourseError):
    """The submission is no entry of the challenge; the text is one line that says why."""


class Contestant:
    """A learner in a process of its own: it trains, and it answers one episode at a time.

    Every method raises Refused, with one sentence, where the submission does not keep the rules.
    """

    def __init__(self, submission: Submission, box: Sandbox, budget: Budget, *, enforced: bool, seed: int):
        self._box, self._budget, self._enforced = box, budget, enforced
        self._seed = rules.seed_of("learner", seed)  # not the one that the hidden episodes follow from
        self._who = submission.name
        request = {"do": "load", "for": "making the learner", "budget": budget.training, "enforced": enforced}
        told, _ = self._ask(request | submission.request, submission.weights, self._budget.episode_seconds)
        self.learner = printable(told.get("learner"))[:60]
        self.made_with = self._flop(told)  # FLOP
        self.fits = told.get("fits") is True

    def train(self) -> int:
        """Let it train on the training scripts; its FLOP."""
        images = training()
        request = {"do": "train", "for": "training", "budget": self._budget.training, "enforced": self._enforced}
        told, _ = self._ask(request, {"images": images.images, "counts": images.counts}, self._budget.seconds)
        return self._flop(told)

    def answer(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> tuple[Tensor, int]:
        """Logits float64 [1, queries, way] of one episode, and the FLOP that it says they took."""
        request = {"do": "answer", "for": "an episode", "budget": self._budget.episode}
        given = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
        told, found = self._ask(request, given, self._budget.episode_seconds)
        wanted = (1, query_x.shape[1], int(support_y.max()) + 1)
        return self._logits(found.get("logits"), wanted), self._flop(told)

    def check(self, episode: Episode, logits: Tensor, generator: torch.Generator) -> None:
        """Ask an episode whose answers another process has given: one query alone, some, then all in another order.

        Ask a process that has not seen the episode: one that has may repeat what it remembers.
        """
        order = torch.randperm(episode.query_x.shape[1], generator=generator)

        def ask(some: Tensor) -> Tensor:
            return self.answer(episode.support_x, episode.support_y, episode.query_x[:, some])[0]

        first, again = ask(order[:1]), ask(order[:1])
        if _differ(again, first, logits):
            raise self._depends("when it is asked again, so that they depend on what it answered before")
        if _differ(first, logits[:, order[:1]], logits):
            raise self._depends("with the order or the company of the queries: alone a query is answered otherwise")
        part = order[: max(1, len(order) // 2)]
        if _differ(ask(part), logits[:, part], logits):
            raise self._depends("with the order or the company of the queries: in part they are answered otherwise")
        if _differ(ask(order), logits[:, order], logits):
            raise self._depends("with the order of the queries")

    def _depends(self, how: str) -> Refused:
        twice = " (or meta_fit gives another learner in a second run with the same seed)" if self.fits else ""
        return self.refusal(
            f"it changes its answers {how}{twice}; answer each query by itself, from the support set alone"
        )

    def refusal(self, sentence: str) -> Refused:
        """What is raised: the name of the submission, and why."""
        return Refused(f"{self._who} is refused: {sentence}")

    def _ask(self, request: dict, tensors: dict | None, seconds: float) -> tuple[dict, dict]:
        self._box.limits = replace(self._box.limits, seconds=seconds)
        self._box.begin_exercise()
        try:
            told, found = self._box.ask(request | {"seed": self._seed}, tensors)
        except Stopped as stopped:
            raise self.refusal(str(stopped)) from None
        if "refused" in told:
            raise self.refusal(printable(told["refused"])[:400])
        return told, found

    def _flop(self, told: dict) -> int:
        flop = told.get("flop")
        if isinstance(flop, bool) or not isinstance(flop, int) or not 0 <= flop < MOST_FLOP:
            raise self.refusal("it says that it computed a number of FLOP that is none")
        return flop

    def _logits(self, logits: Any, wanted: tuple[int, ...]) -> Tensor:
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else "none"
            raise self.refusal(
                f"it answers in the shape {shape}; let predict give logits [1, queries, way], here {wanted}"
            )
        if not logits.is_floating_point():
            raise self.refusal(
                f"it answers in {logits.dtype}; let predict give a floating point number for each class, not the class"
            )
        logits = logits.double()
        if not (logits.abs() <= LARGEST).all():
            raise self.refusal(
                f"it answers with nan, or with numbers beyond {LARGEST:.0e}; let predict give finite logits"
            )
        return logits


def _differ(again: Tensor, before: Tensor, whole: Tensor) -> bool:
    """Whether answers [1, n, way] differ by more than rounding does, `whole` being all answers of the episode.

    By more than a small share of how far all answers are apart; or, since one huge logit would hide that, in the
    classes that they name: plainly in one query, or at all in two queries and a tenth of them.
    """
    spread = (whole.max() - whole.min()).item()
    named, then = again.argmax(-1, keepdim=True), before.argmax(-1, keepdim=True)
    centred = before - before.median(-1, keepdim=True).values
    two = centred.gather(-1, then), centred.gather(-1, named)
    plainly = (two[0] - two[1]) > rules.PLAINLY * torch.maximum(two[0].abs(), two[1].abs())
    return bool(
        (again - before).abs().max().item() > rules.SHARE * spread + 1e-6
        or plainly.any()
        or (named != then).sum() > max(1, 0.1 * again.shape[1])
    )


def _folders_with_pictures() -> list[str]:
    """Where this machine keeps pictures of characters and digits: fonts, and a data set of a library."""
    found = ["/usr/share/fonts", "/usr/local/share/fonts"]
    for library, below in (("matplotlib", "mpl-data/fonts"), ("sklearn", "datasets/data")):
        spec = importlib.util.find_spec(library)
        found += [os.path.join(folder, below) for folder in spec.submodule_search_locations] if spec else []
    return [folder for folder in found if os.path.isdir(folder)]


@contextlib.contextmanager
def contestant(submission: Submission, budget: Budget, *, enforced: bool, seed: int) -> Iterator[Contestant]:
    """A submission in a sandbox of its own; afterwards nothing of it is left."""
    limits = Limits(seconds=budget.seconds, memory=rules.MEMORY, all_seconds=1e6, clock=1e6)
    try:
        hidden = [str(places.data()), *_folders_with_pictures()]
        box = Sandbox([], limits, program="mlcourse.challenge.child", hidden=hidden)
    except Stopped as stopped:
        raise CourseError(f"{submission.name} cannot be run here: {stopped}") from None
    try:
        yield Contestant(submission, box, budget, enforced=enforced, seed=seed)
    finally:
        box.close()
