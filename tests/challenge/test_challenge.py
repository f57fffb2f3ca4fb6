"""The challenge from outside: right cards, one clear refusal for each broken rule, and nothing left behind."""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch
from challenge_helpers import HARMFUL, PAST_THE_GUARD, UNFIT, learner, made_card
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from mlcourse import files, learners, places
from mlcourse.challenge import (
    Budget,
    child,
    domains,
    exchange,
    rules,
    run_submission,
    running,
    scoring,
    submissions,
    tasks,
)
from mlcourse.challenge.counting import Counter, OverBudget
from mlcourse.classroom import sandbox
from mlcourse.commands import app
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.teaching import figures

WALLS = pytest.mark.skipif(sandbox.bubblewrap() is None, reason="bubblewrap is not installed, or may not be used here")
POSIX = pytest.mark.skipif(os.name != "posix", reason="the limits of processes are POSIX")
EXAMPLE = places.repository() / "docs" / "challenge" / "example.py"
SMALL = Budget(training=5e9, episode=1e10, seconds=2)


@pytest.fixture(autouse=True)
def only_glyphs(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("MLCOURSE_DATA", str(tmp_path / "data"))


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """Fails where a file of the test's folder has changed, or a process or a folder of a sandbox is left."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    canary = tmp_path / "canary"
    canary.write_text("whole")
    before = set(psutil.Process().children(recursive=True))  # of other tests of this worker
    yield canary
    assert canary.read_text() == "whole"
    # only what this test has started: the browser of another one may start processes at any time
    started = [one for one in psutil.Process().children() if one not in before]
    new = [one for child in started for one in (child, *child.children(recursive=True))]
    assert [one for one in new if one.status() != psutil.STATUS_ZOMBIE] == []
    assert list((tmp_path / "temporary").glob("mlcourse-answers-*")) == []
    assert not Path("/tmp/left").exists()


def made(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, str]:
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in every}


def call(*arguments):
    answer = CliRunner().invoke(app, ["challenge", *map(str, arguments)])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


# ------------------------------------------------------------------ right submissions


def test_the_example_has_a_card_which_is_the_same_twice(tmp_path, nothing_left):
    lines = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 26, "a submission has about 20 lines, and some imports"
    first = call(EXAMPLE, "--episodes", 3, "--budget", 2.5e9, "--out", tmp_path / "a", "--seed", 7)
    assert first.exit_code == 0, first.output
    card = run_submission(EXAMPLE, seed=7, episodes=3, budget=Budget(training=2.5e9))
    card.write(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() == {"card.json", "card.png"}
    assert 0 < card.training_flop < 2.5e9, "the stream of tasks ends before the budget does"
    assert card.weights == "meta_fit"
    told = json.loads((tmp_path / "a" / "card.json").read_text(encoding="utf-8"))
    assert told["score"]["value"] == pytest.approx(card.score.value, abs=1e-6)
    assert [line.split(":")[0] for line in told["left_out"]] == ["Omniglot", "MNIST", "Caltech-101"]
    assert f"{card.score.value:.3f}" in first.output
    figures.check_text(card.alt, card.figure())


def test_a_method_of_the_course_has_the_score_that_the_course_measures(tmp_path, nothing_left):
    folder = pictures(tmp_path / "photos", classes=3, each=5)
    card = run_submission("pixels", episodes=4, budget=SMALL, folder=folder)
    rival = next(one for one in card.rivals if one.name == "pixels")
    assert rival.score == card.score, "the process gives the answers that this process gives"
    assert (rival.lead, rival.lead_half, rival.verdict) == (0, 0, "tied")
    assert (card.weights, card.training_flop) == ("nothing to train", 0)
    assert [(one.name, one.hidden) for one in card.domains] == [("glyphs", True), ("own pictures", False)]
    assert card.domains[0].score == card.score, "one's own pictures do not count"
    assert card.domains[1].score.over_clusters is None


def test_a_run_has_the_score_of_the_run(monkeypatch):
    monkeypatch.setattr(exchange, "Sandbox", Here)
    place = places.data() / "checkpoints" / running.CHECKPOINT
    card = run_submission(place, episodes=2, budget=SMALL)
    assert next(one for one in card.rivals if one.name == running.CHECKPOINT).score == card.score
    assert card.weights == "a run of mlcourse train on glyphs"
    assert card.training_flop > 1e11


@WALLS
def test_walls_hold_what_goes_past_the_guard(tmp_path, nothing_left):
    hidden = places.data() / "glyphs" / "index.json"
    assert hidden.is_file()
    text = PAST_THE_GUARD.replace("{canary}", str(nothing_left)).replace("{hidden}", str(hidden))
    card = run_submission(made(tmp_path, text), episodes=2, budget=SMALL)
    assert card.learner == "Mine"


# ------------------------------------------------------------------ refusals


def refused(path: Path, says: str) -> None:
    with pytest.raises(exchange.Refused, match=rf"^mine.py is refused: .*({says})") as found:
        run_submission(path, episodes=2, budget=SMALL)
    assert len(str(found.value).splitlines()) == 1


@POSIX
@pytest.mark.parametrize("name", HARMFUL)
def test_what_does_harm_is_refused_and_leaves_nothing(name, tmp_path, nothing_left):
    if name == "all memory" and sys.platform != "linux":
        pytest.skip("the limit of memory is Linux's")
    before = contents(tmp_path)
    text, says = HARMFUL[name]
    path = made(tmp_path, text)
    refused(path, says)
    path.unlink()
    assert contents(tmp_path) == before


class Here:
    """In place of a sandbox: the same requests to the same code, in this process."""

    def __init__(self, lessons, limits, **_):
        self.limits, self.runner = limits, child.Runner()

    def ask(self, request: dict, tensors: dict | None) -> tuple[dict, dict]:
        reply, found = child.served(self.runner, request, tensors or {})
        return reply, found or {}

    def begin_exercise(self) -> None:
        """Time is not counted."""

    def close(self) -> None:
        """There is nothing to end."""


@pytest.mark.parametrize("name", UNFIT)
def test_what_keeps_no_rule_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "Sandbox", Here)
    text, says = UNFIT[name]
    refused(made(tmp_path, text), says)


def test_what_keeps_the_rules_is_not_refused(tmp_path, monkeypatch):
    """The submission that all others are made from, and learners that draw, or answer in float16 or float64."""
    monkeypatch.setattr(exchange, "Sandbox", Here)
    for more in ("pass", "logits = logits.half()", "logits = logits.double()", "logits = logits * torch.rand(1)"):
        card = run_submission(made(tmp_path, learner(predict=more)), episodes=2, budget=SMALL)
        assert card.score.value > 0
        assert (card.weights, card.training_flop) == ("made by the file itself", 0)


def test_a_file_with_room_for_weights_is_for_the_open_track(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "Sandbox", Here)
    path = made(tmp_path, learner(more=f"\nweights = {'x' * 20_000!r}\n"))
    with pytest.raises(CourseError, match="the closed track takes 20,000"):
        run_submission(path, episodes=2, budget=SMALL)
    assert run_submission(path, episodes=2, budget=SMALL, track="open").score.value > 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("card.json", '{"mine": "important"}', "card.json is no card of the challenge: name another --out"),
        ("card.json", '{"submission": "theirs.py"}', "holds the card of theirs.py, which would be overwritten: name"),
        ("card.png", "my holiday", "card.png is no card of the challenge: name another --out"),
    ],
)
def test_no_card_of_another_submission_is_overwritten(tmp_path, monkeypatch, name, text, said):
    monkeypatch.setattr("mlcourse.challenge.run_submission", None)  # it is said before the work
    (tmp_path / name).write_text(text)
    answer = call("pixels", "--episodes", 2, "--out", tmp_path)
    assert answer.exit_code == 2
    assert said in answer.stderr
    assert (tmp_path / name).read_text() == text


def test_names_are_drawn_to_the_letter(tmp_path):
    names = {"submission": "a$b_$x^.py", "learner": r"x$\foo{$", "left_out": (r"$\frac$",)}
    made_card(**names).write(tmp_path)
    assert (tmp_path / "card.png").is_file()


@pytest.mark.parametrize("target", ["file/below", "/proc/card"])
def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path, monkeypatch, target):
    monkeypatch.setattr("mlcourse.challenge.run_submission", lambda *_, **__: pytest.fail("the work was done"))
    (tmp_path / "file").write_text("")
    answer = call("pixels", "--out", tmp_path / target)
    assert answer.exit_code != 0
    assert "name another" in answer.output


TRAINS = """
    def meta_fit(self, tasks):
        assert torch.is_grad_enabled() and self.training
        for _ in range(3):
            torch.ones(512, 512) @ torch.ones(512, 512)
"""


def test_the_open_track_limits_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "Sandbox", Here)
    path, budget = made(tmp_path, learner(more=TRAINS)), Budget(training=3e8, episode=1e10)
    with pytest.raises(exchange.Refused, match="over the budget of 3e\\+08 FLOP for training"):
        run_submission(path, episodes=2, budget=budget)
    card = run_submission(path, episodes=2, budget=budget, track="open")
    assert (card.weights, card.training_flop, card.training_budget) == ("meta_fit", 6 * 512**3, None)


def test_the_open_track_takes_weights_beside_the_submission(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "Sandbox", Here)
    path = made(tmp_path, learner(before="x = x * self.scale").replace("self.seen =", "self.scale = nn.Parameter("
                "torch.zeros(1))\n        self.seen ="))  # fmt: skip
    assert run_submission(path, episodes=2, budget=SMALL).score.value == pytest.approx(0, abs=1e-9)
    save_file({"scale": torch.ones(1)}, tmp_path / "mine.safetensors")
    card = run_submission(path, episodes=2, budget=SMALL, track="open")
    assert card.score.value > 0.1
    assert (card.weights, card.training_flop) == ("the file mine.safetensors", None)
    save_file({"other": torch.ones(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(exchange.Refused, match="its file of weights belongs to another learner"):
        run_submission(path, episodes=2, budget=SMALL, track="open")
    (tmp_path / "mine.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CourseError, match=r"mine\.safetensors holds no tensors"):
        run_submission(path, episodes=2, budget=SMALL, track="open")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{syntax}"], "mine.py is refused: it is no Python file (line 1"),
        (["nowhere.py"], "there is no submission nowhere.py: give a Python file"),
        (["pixels", "--seed", "many"], "--seed is 'many'; give an integer"),
        (["pixels", "--seed", "-1"], "--seed is '-1'; give an integer"),
        (["pixels", "--track", "ajar"], "track is 'ajar'; give closed or open"),
        (["pixels", "--episodes", "1"], "episodes is 1; give 2 or more"),
        (["pixels", "--budget", "nan"], "the budget's training is nan; give a finite number above 0"),
        (["pixels", "--folder", "{few}"], "has 4 pictures in 2 classes: give 15 or more"),
        (["pixels", "--out", "{syntax}"], "is a file, and the card needs a folder"),
        (["{weights}"], "has weights beside it (heavy.safetensors), and the closed track takes none"),
        (["{omniglot}"], "was trained on omniglot, and the closed track takes weights of the training scripts only"),
        (["{begun}"], "began with another run (runs/omniglot), whose FLOP it does not tell"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_before_any_process_starts(arguments, says, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "Sandbox", None)
    given = {"syntax": made(tmp_path, "class :"), "few": pictures(tmp_path / "few", classes=2, each=2)}
    given |= {"weights": tmp_path / "heavy.py", "omniglot": tmp_path / "run"}
    given["weights"].write_text(learner(), encoding="utf-8")
    files.save_tensors(tmp_path / "heavy.safetensors", {"seen": torch.ones(784)})
    learners.save(learners.build("prototypical", way=5, seed=0), given["omniglot"], dataset="omniglot")
    given["begun"] = tmp_path / "begun"
    told = {"dataset": "glyphs", "init": "runs/omniglot"}
    learners.save(learners.build("meta-baseline", way=5, seed=0), given["begun"], **told)
    answer = call(*(one.format(**given) for one in arguments))
    assert answer.exit_code == 2
    lines = [
        line for line in answer.stderr.splitlines() if "no bubblewrap" not in line and not line.startswith("challenge:")
    ]
    assert len(lines) == 1
    assert says in lines[0]


class Box:
    """A sandbox whose process says what the test wants."""

    def __init__(self, told: dict, found: dict | None = None):
        self.told, self.found, self.limits = told, found or {}, sandbox.Limits()

    def ask(self, request: dict, tensors: dict | None) -> tuple[dict, dict]:
        return (
            ({"learner": "Mine", "fits": False, "flop": 0}, {}) if request["do"] == "load" else (self.told, self.found)
        )

    def begin_exercise(self) -> None:
        """It takes no time."""


@pytest.mark.parametrize("flop", [None, -1, True, 1.5, "many", 10**30, [1]])
def test_a_forged_number_of_flop_is_refused(flop):
    box = Box({"flop": flop}, {"logits": torch.zeros(1, 3, 2)})
    runner = exchange.Contestant(submissions.read("pixels", "closed"), box, SMALL, enforced=True, seed=0)
    with pytest.raises(exchange.Refused, match="number of FLOP that is none"):
        runner.answer(torch.zeros(1, 2, 1, 28, 28), torch.tensor([[0, 1]]), torch.zeros(1, 3, 1, 28, 28))


@pytest.mark.parametrize("found", [{}, {"other": torch.zeros(1)}, {"logits": torch.zeros(1, 3, 2, 1)}])
def test_a_reply_without_answers_is_refused(found):
    runner = exchange.Contestant(
        submissions.read("pixels", "closed"), Box({"flop": 1}, found), SMALL, enforced=True, seed=0
    )
    with pytest.raises(exchange.Refused, match="in the shape"):
        runner.answer(torch.zeros(1, 2, 1, 28, 28), torch.tensor([[0, 1]]), torch.zeros(1, 3, 1, 28, 28))


# ------------------------------------------------------------------ FLOP


class Square(torch.autograd.Function):
    """An autograd function of one's own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x @ x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad @ x.T + x.T @ grad


PRODUCT = 2 * 64**3  # FLOP of a product of two 64×64 matrices


def under(mode):
    def compute():
        with mode():
            torch.ones(64, 64) @ torch.ones(64, 64)

    return compute


@pytest.mark.parametrize(
    ("compute", "products"),
    [
        (under(torch.no_grad), 1),
        (under(torch.inference_mode), 1),
        (lambda: Square.apply(torch.ones(64, 64, requires_grad=True)).sum().backward(), 3),
        (lambda: torch.nn.Linear(64, 64)(torch.ones(64, 64)).sum().backward(), 2),
        (lambda: torch.ones(64, 64).numpy() @ torch.ones(64, 64).numpy(), 0),  # said in docs/challenge.md
    ],
)
def test_what_is_counted(compute, products):
    with Counter() as counter:
        compute()
    assert counter.flop == products * PRODUCT


def test_the_budget_ends_a_computation():
    steps = []

    def compute():
        with Counter(10 * PRODUCT):
            while True:
                steps.append(torch.ones(64, 64) @ torch.ones(64, 64))

    with pytest.raises(OverBudget):
        compute()
    assert len(steps) == 10
    with Counter() as counter:  # and nothing of it is left
        steps[0] @ steps[1]
    assert counter.flop == PRODUCT


@pytest.fixture(scope="module")
def training():
    return domains.training()


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_stream_of_tasks_ends_before_the_budget(power, seed, training):
    """Whether a task costs the same whatever its size, or as much as it has pictures, or pairs of them."""
    most = 300**power * 8.5 * 2 * 8**2
    with Counter(most) as counter:
        stream = tasks.Tasks(training, counter, most, torch.Generator().manual_seed(seed))
        sizes = []
        for episode in stream:
            assert 2 <= episode.way <= 20
            sizes.append(episode.support_y.shape[1] + episode.query_y.shape[1])
            torch.ones(8, sizes[-1] ** power) @ torch.ones(sizes[-1] ** power, 8)
    assert len(sizes) >= 6
    assert 0 <= stream.flop_left < 0.25 * most


# ------------------------------------------------------------------ hidden tasks and figures


def test_the_process_does_not_know_the_seed_of_the_hidden_episodes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(exchange, "Sandbox", Here)
    monkeypatch.setattr(child, "seed_all", asked.append)
    run_submission(made(tmp_path, learner()), episodes=2, seed=5, budget=SMALL)
    assert set(asked) == {rules.seed_of("learner", 5)}


def test_hidden_episodes_follow_from_the_seed_and_hold_no_order():
    (domain,), left_out = domains.hidden()
    assert len(left_out) == 3
    one, again, other = (list(domain.episodes(40, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a.query_index, b.query_index) for a, b in zip(one, again))
    assert any(a.query_index.shape != b.query_index.shape for a, b in zip(one, other))
    assert {episode.way for episode in one} <= set(range(2, 21))
    assert {episode.support_y.shape[1] // episode.way for episode in one} <= set(range(1, 11))
    assert max(episode.way for episode in one) > 12 > 8 > min(episode.way for episode in one)
    assert not any(torch.equal(e.query_y, e.query_y.sort().values) for e in one if e.way > 4)
    assert not any(set(e.query_index[0].tolist()) & set(e.support_index[0].tolist()) for e in one)
    assert set(domain.images.groups).isdisjoint(domains.training().groups)


def test_a_data_set_that_is_there_is_asked_and_counts_as_much_as_the_others(tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels = torch.arange(120, dtype=torch.uint8) % 10
    pictures = (labels.view(-1, 1, 1) * 20 + torch.arange(784).view(28, 28) % 7).to(torch.uint8)
    header = [number.to_bytes(4, "big") for number in (0x801, 120, 0x803, 120, 28, 28)]
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"".join(header[:2]) + labels.numpy().tobytes())
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"".join(header[2:]) + pictures.numpy().tobytes())
    found, left_out = domains.hidden()
    assert [one.name for one in found] == ["glyphs", "MNIST"]
    assert [line.split(":")[0] for line in left_out] == ["Omniglot", "Caltech-101"]
    drawn = list(found[1].episodes(30, 0))
    assert {episode.way for episode in drawn} <= set(range(2, 11))
    assert max(episode.support_y.shape[1] // episode.way for episode in drawn) == 10
    alone = list(found[0].episodes(3, 0))
    (again, *_), _ = domains.hidden()
    assert all(torch.equal(a.query_x, b.query_x) for a, b in zip(alone, again.episodes(3, 0)))


@pytest.mark.parametrize(("answer", "score"), [("perfect", 1.0), ("constant", 0.0)])
def test_perfect_is_one_and_chance_is_zero(answer, score):
    (domain,), _ = domains.hidden()
    drawn = list(domain.episodes(6, 0))
    labels = iter([episode.query_y for episode in drawn])

    def answers(support_x, support_y, query_x):
        way, y = int(support_y.max()) + 1, next(labels)
        return torch.nn.functional.one_hot(y if answer == "perfect" else torch.zeros_like(y), way).double(), 5

    found = scoring.total([scoring.collect(domain, answers, drawn)])
    assert found.value == pytest.approx(score, abs=1e-12)
    assert (found.flop, found.episodes) == (5, 6)


def test_the_score_is_that_of_the_courses_evaluation():
    (domain,), _ = domains.hidden()
    drawn = list(domain.episodes(8, 3))
    pixels = learners.build("pixels", way=5)
    found = scoring.collect(domain, running.asking(pixels), drawn)
    for value, episode in zip(found.values, drawn):
        source = type("Source", (), {"sample": lambda self, tasks, generator, one=episode: one})()
        accuracy = evaluate(pixels, source, episodes=1).accuracy
        assert value == pytest.approx((accuracy - 1 / episode.way) / (1 - 1 / episode.way))
    sums = found.rows.sum(0)
    assert (sums[0] / sums[1]).item() == pytest.approx(scoring.score(found).value), "the lines are the mean's shares"
    assert sums[1].item() == pytest.approx(8)


def test_domains_weigh_the_same_and_intervals_add_as_strata():
    (domain,), _ = domains.hidden()
    generator = torch.Generator().manual_seed(0)

    def made_up(mean):
        values = mean + 0.1 * torch.randn(50, generator=generator, dtype=torch.float64)
        rows, clusters = torch.stack([values, torch.ones(50, dtype=torch.float64)], 1), torch.arange(50) % 10
        return scoring.Answers(domain, values, rows, clusters, torch.ones(16, 3, dtype=torch.float64), 100)

    a, b = made_up(0.9), made_up(0.3)
    both, alone = scoring.total([a, b]), [scoring.score(one) for one in (a, b)]
    assert both.value == pytest.approx((alone[0].value + alone[1].value) / 2)
    assert all(one.over_clusters > one.over_episodes for one in alone), "other scripts come in other episodes"
    for name in ("over_episodes", "over_clusters"):
        halves = [getattr(one, name) for one in alone]
        assert getattr(both, name) == pytest.approx((halves[0] ** 2 + halves[1] ** 2) ** 0.5 / 2)
    assert both.worst_tenth < 0.3


def test_figures_of_a_card_without_an_interval_and_with_long_names_are_drawn():
    card = made_card(submission="a" * 60)
    assert "no interval" in card.headline
    assert card.figure().axes[0].get_yticklabels()
    assert rules.Budget().episode_seconds == 30


def pictures(folder: Path, *, classes: int, each: int) -> Path:
    """A folder of class folders with coloured pictures."""
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
        for sample in range(each):
            picture = Image.new("RGB", (30, 30), (80 * number + 20, 9 * sample, 40))
            picture.save(folder / f"class {number}" / f"{sample}.png")
    return folder
