"""Run a submission: train it, ask it the hidden episodes, ask the course's own methods the same, and make the card."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mlcourse import learners, places
from mlcourse.challenge import domains, rules, scoring, submissions
from mlcourse.challenge.card import Card, Part, Rival
from mlcourse.challenge.counting import Counter
from mlcourse.challenge.domains import Domain
from mlcourse.challenge.exchange import Contestant, contestant
from mlcourse.challenge.rules import Budget
from mlcourse.challenge.scoring import Answer, Answers
from mlcourse.challenge.submissions import Submission
from mlcourse.episodes import Episode, check_seed
from mlcourse.evaluation import evaluation_mode

CHECKED = 2  # episodes of each domain that are surely asked again
CHECKED_OF = 20  # and of the others one in so many
CHECKPOINT = "prototypical-seed0"  # of data/checkpoints, trained on the training scripts
Say = Callable[[float, str], None]  # a share of the work, and what comes now


def run_submission(
    path: str | Path,
    *,
    seed: int = 0,
    episodes: int = rules.EPISODES,
    track: str = "closed",
    budget: Budget | None = None,
    folder: str | Path | None = None,
    say: Say = lambda share, what: None,
) -> Card:
    """The score card of a submission: a Python file, the folder of a run, or the name of a method.

    seed: of the hidden episodes, of random weights and of the training tasks. episodes: of each domain. track: see
    `docs/challenge.md`. folder: of the learner's own pictures, which get a row of their own. say: is told where the
    work is. Raises CourseError, in one line, for a submission that is refused.
    """
    check_seed(seed)
    rules.check_episodes(episodes)
    budget = budget or Budget()
    submission = submissions.read(path, track)
    own = [domains.own(folder)] if folder is not None else []
    say(0.0, "reading the pictures")
    hidden, left_out = domains.hidden()
    asked = [*hidden, *own]
    with contestant(submission, budget, enforced=track == "closed", seed=seed) as runner:
        weights, flop = _trained(submission, runner, say)
        mine = [
            _answers(runner, domain, episodes, seed, _part(say, 0.3, 0.5, index, asked))
            for index, domain in enumerate(asked)
        ]
        name = runner.learner
    with contestant(submission, budget, enforced=track == "closed", seed=seed) as fresh:
        say(0.5, "the same in a second process")
        if fresh.fits:
            fresh.train()
        for index, (_, again) in enumerate(mine):
            _part(say, 0.5, 0.6, index, asked)()
            for episode, logits, generator in again:
                fresh.check(episode, logits, generator)
    mine = [answers for answers, _ in mine]
    rivals = _rivals(mine[: len(hidden)], episodes, seed, say)
    say(1.0, "done")
    return Card(
        submission=submission.name,
        learner=name,
        digest=submission.digest,
        track=track,
        seed=seed,
        episodes=episodes,
        weights=weights,
        training_flop=flop,
        training_budget=budget.training if track == "closed" else None,
        episode_budget=budget.episode,
        score=scoring.total(mine[: len(hidden)]),
        domains=tuple(Part(one.domain.name, one.domain.hidden, scoring.score(one)) for one in mine),
        rivals=rivals,
        left_out=tuple(left_out),
    )


def _trained(submission: Submission, runner: Contestant, say: Say) -> tuple[str, int | None]:
    """Where the weights come from, and the FLOP of their training."""
    if not runner.fits and not submission.made:
        return "made by the file itself" if "source" in submission.request else "random weights", runner.made_with
    if not runner.fits:
        return submission.made, submission.flop
    say(0.05, "training")
    flop = runner.made_with + runner.train()
    if submission.made and submission.flop is None:
        return f"{submission.made}, then meta_fit", None
    return f"{submission.made}, then meta_fit" if submission.made else "meta_fit", flop + (submission.flop or 0)


def _part(say: Say, begin: float, end: float, index: int, of: Sequence[Domain]) -> Callable[[], None]:
    share = begin + (end - begin) * index / len(of)
    return lambda: say(share, f"asking {of[index].name}")


Again = tuple[Episode, Tensor, torch.Generator]  # what is asked again, what was answered, and for the order


def _answers(
    runner: Contestant, domain: Domain, episodes: int, seed: int, begin: Callable[[], None]
) -> tuple[Answers, list[Again]]:
    """What a submission answers in a domain; and some episodes, to be asked again in another order and company."""
    begin()
    drawn = list(domain.episodes(episodes, seed))
    generator = torch.Generator().manual_seed(rules.seed_of("checks", seed, domain.name))
    lots = torch.rand(episodes, generator=generator)
    given: list[Tensor] = []

    def answer(*tensors: Tensor) -> tuple[Tensor, int]:
        logits, flop = runner.answer(*tensors)
        given.append(logits)
        return logits, flop

    answers = scoring.collect(domain, answer, drawn)
    again = [
        (episode, given[index], generator)
        for index, episode in enumerate(drawn)
        if index < CHECKED or lots[index] < 1 / CHECKED_OF
    ]
    return answers, again


# ------------------------------------------------------------------ the course's own methods


def _rivals(mine: Sequence[Answers], episodes: int, seed: int, say: Say) -> tuple[Rival, ...]:
    """The course's methods on the same episodes, the best one first."""
    found = []
    made = _methods(seed)
    for index, (name, learner) in enumerate(made.items()):
        say(0.6 + 0.4 * index / len(made), f"asking {name}")
        with _one_thread():
            answer = asking(learner)
            theirs = [scoring.collect(one.domain, answer, one.domain.episodes(episodes, seed)) for one in mine]
        lead = scoring.difference(mine, theirs)
        found.append(Rival(name, scoring.total(theirs), lead.difference, lead.ci95))
    return tuple(sorted(found, key=lambda one: -one.score.value))


def _methods(seed: int) -> dict[str, learners.Learner]:
    """Name -> learner: nothing learnt, an untrained network, and a network trained on the training scripts."""
    size = {"in_channels": rules.SHAPE[0], "size": rules.SHAPE[1]}
    trained = learners.load(places.data() / "checkpoints" / CHECKPOINT)
    return {
        "pixels": learners.build("pixels", way=rules.WAYS[1], **size),
        "untrained prototypes": learners.build("prototypical", way=rules.WAYS[1], seed=seed, **size),
        CHECKPOINT: trained,
    }


def asking(learner: learners.Learner) -> Answer:
    """What `scoring.collect` asks, of a learner in this process."""

    def answer(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad(), evaluation_mode(learner), Counter() as counter:
            logits = learner.predict(learner.adapt(support_x, support_y), query_x)
        return logits.double(), counter.flop

    return answer


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in the process of a submission: sums are then the same in each run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
