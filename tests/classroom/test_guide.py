"""The teacher's guide says what the notebooks and their checks say, and the answers of its exam questions are right."""

import html
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import nbformat
import pytest
import torch
from held_answers import LESSONS, held
from nbformat.v4 import new_markdown_cell, new_notebook
from torch import tensor
from typer.testing import CliRunner

from mlcourse import datasets, episodes, inner, learners, places, statistics
from mlcourse.classroom import guide, handout
from mlcourse.commands import app
from mlcourse.errors import CourseError
from mlcourse.learners import distillation
from mlcourse.lessons import every_check
from mlcourse.lessons.compare import pictures
from mlcourse.meta_gradients import estimators, linear_solvers, quadratics
from mlcourse.protocols import flop
from mlcourse.teaching import checks as teaching_checks
from mlcourse.teaching.checks import Unnamed

DOCS = places.repository() / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / guide.NAME).is_file(), reason="needs a clone of the repository")
F64 = torch.float64


@pytest.fixture(scope="module")
def entries():
    return guide.read(places.notebooks())


# ---- the tables ----


def test_the_guide_is_of_today():
    place, text = guide.page(places.notebooks())
    assert place == DOCS / guide.NAME
    assert place.read_text(encoding="utf-8") == text, "call `mlcourse tidy`"


def test_it_says_what_each_notebook_says(entries):
    for one in entries:
        assert one.minutes in range(30, 121), one.file
        assert list(one.advice) == ["Open with", "Expect the guess", "Skip", "Plan"], one.file
        planned = sum(map(int, re.findall(r"(\d+) min\b", one.advice["Plan"])))
        assert planned == one.minutes, f"{one.file}: the plan of the class adds up to {planned}"
        assert one.tasks
        assert all(task.minutes.isdigit() for task in one.tasks), one.file
        assert one.claim["says"]


def test_each_check_names_what_goes_wrong(entries):
    for one in entries:
        for task in one.tasks:
            assert len(task.causes) >= 3, f"{task.number}: {task.causes}"
            assert not any("Unnamed" in cause or "Args:" in cause for cause in task.causes)


@pytest.mark.parametrize("number", LESSONS)
def test_what_a_check_says_of_a_wrong_answer_stands_in_the_guide(number, monkeypatch):
    if number not in ("00", "13") and os.environ.get("MLCOURSE_LESSON") != "all":
        pytest.skip("all wrong answers of all lessons take minutes: set MLCOURSE_LESSON=all")
    answers, found = held(LESSONS[number]), 0
    monkeypatch.setattr(teaching_checks, "common_slip", lambda *args, **options: None)  # all checks name these
    for one in answers:
        verdict = one.check.run(one.answer, seed=one.check.first_seed)
        named = verdict.found_by == "judge" and not isinstance(verdict.diagnosis, Unnamed)
        if not named or "single precision" in verdict.diagnosis:
            continue
        patterns = [re.escape(cause).replace("…", ".*?") for cause in guide.diagnoses(one.check)]
        said = " ".join(verdict.diagnosis.split())
        assert any(re.search(pattern, said) for pattern in patterns), f"{one}: {said}"
        found += 1
    assert found >= 10


def test_sentences_are_read_from_the_code():
    def judge(inputs, outputs):
        """A docstring is no diagnosis of a check."""
        many = {"One cause that is named here.": 1, f"Another cause: {inputs} is the wrong one.": 2}
        if outputs:
            return many or Unnamed("This one only says how far off it is.")
        raise TypeError("this needs " + "two tensors, not one")

    check = every_check()["start_here.nearest"]
    one = type(check)("00.1", "a", check.inputs, check.probe, judge, check.reference)
    assert guide.diagnoses(one)[:3] == [
        "One cause that is named here.",
        "Another cause: … is the wrong one.",
        "this needs two tensors, not one",
    ]


def test_plans_keep_the_order_of_prerequisites(entries):
    known = {one.number: one for one in entries}
    plans = guide.named_plans()
    assert set(handout.tracks()["core"]) <= set(plans["two-days"].numbers)
    for name, plan in plans.items():
        for place, number in enumerate(plan.numbers):
            assert set(known[number].needs) <= set(plan.numbers[:place]), f"{number} in {name}"
        if plan.weekly:
            assert len(plan.numbers) == 10
            assert all(known[number].minutes <= 90 for number in plan.numbers)
        for number in {"12", "17"} - set(plan.numbers) if plan.weekly else ():
            assert number in plan.note, f"{name} does not say why it has no {number}"


@pytest.mark.parametrize(("name", "days"), [("day", 1), ("two-days", 2)])
def test_a_plan_of_days_ends_in_time_also_when_every_lesson_takes_longer(entries, name, days):
    """With a quarter of an hour more it does without the notebook that the guide says, and only without it."""
    known, plan = {one.number: one for one in entries}, guide.named_plans()[name]

    def last(numbers, more):
        return handout.schedule([handout.Lesson("", "", known[n].minutes + more, 0) for n in numbers])[-1][0]

    left = [number for number in plan.numbers if number != plan.first_to_drop]
    longer = (
        f"{name} takes {last(plan.numbers, 0)} days: its notebooks are the track Core of README.md; choose another one"
    )
    assert last(plan.numbers, 0) == days, longer
    assert last(plan.numbers, guide.SPARE) > days
    assert last(left, guide.SPARE) == days
    assert not any(plan.first_to_drop in known[number].needs for number in left)


@pytest.mark.parametrize("name", guide.named_plans() if (DOCS / guide.NAME).is_file() else [])
def test_the_cover_page_of_a_plan_has_the_schedule_of_the_guide(entries, name, tmp_path):
    answer = CliRunner().invoke(app, ["handout", str(tmp_path / "edition"), "--plan", name])
    assert answer.exit_code == 0, answer.output
    plan, text = guide.named_plans()[name], guide.plans(entries)
    part = text.split(f"### {plan.title}\n")[1].split("\n### ")[0]
    assert f"`mlcourse handout edition --plan {name}`" in part
    row = r"^\| (\d+) \| \[(.+?)\]\(.*?\| (\d+ minutes) \|" if plan.weekly else r"^\| (\d) \| ([\d:–]+) \| \[(.+?)\]\("
    told = re.findall(row, part, re.MULTILINE)
    page = html.unescape((tmp_path / "edition" / "index.html").read_text(encoding="utf-8"))
    shown = re.findall(r"<tr><td>(\d+)</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert [one[2] for one in shown] == [known.title for n in plan.numbers for known in entries if known.number == n]
    assert shown == ([(week, time, title) for week, title, time in told] if plan.weekly else told)
    assert ("<th>week</th>" in page) == plan.weekly
    there = {path.name[:2] for path in (tmp_path / "edition" / "notebooks").glob("*.ipynb")}
    assert there == set(plan.numbers)


def test_the_guide_says_of_the_disk_what_readme_and_cover_page_say():
    texts = [(DOCS.parent / "README.md").read_text(encoding="utf-8"), (DOCS / guide.NAME).read_text(encoding="utf-8")]
    for text in [*map(" ".join, map(str.split, texts)), " ".join(handout.cover([]).split())]:
        for words in ("about 3 GB to download and 6 GB of disk", "9 GB must be free while it is made"):
            assert words in text


def test_a_new_notebook_joins_without_edits(tmp_path):
    (tmp_path / "docs").mkdir()
    shutil.copytree(places.notebooks(), tmp_path / "notebooks")
    for name in (guide.NAME, guide.QUESTIONS):
        shutil.copy(DOCS / name, tmp_path / "docs" / name)
    header = (
        "# 99 · Something new\n\n| | |\n|---|---|\n| **Prerequisites** | 00, 05 (a | b) |\n"
        "| **Core** | 40 minutes |\n\n<details><summary>In class: 50 minutes</summary>\n\n"
        "- **Open with:** Why\n  this?\n- **Skip:** nothing.\n\n</details>"
    )
    nbformat.write(new_notebook(cells=[new_markdown_cell(header)]), tmp_path / "notebooks" / "99_something_new.ipynb")
    _, text = guide.page(tmp_path / "notebooks")
    assert "| [99 · Something new](../notebooks/99_something_new.ipynb) | 50 | 40 + – | 00, 05 | – |" in text
    assert "### 99 · Something new" in text
    assert "| **Open with** | Why this? |" in text
    assert "none yet: write a section ## 99 in docs/questions.md" in text
    assert text.count("99 · Something new") == 3  # among the notebooks, in its section, in no week of the plan


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("difficulty 2 of 5", "difficulty 2", r"no heading has the form `### Exercise 05\.1: title \(core, difficulty"),
        (
            "def my_hessian_vector",
            "def your_hessian_vector",
            r"exercise:05\.1 defines no function my_…: write its stub",
        ),
        (
            "hessian_vector = checks.hessian_vector(my_hessian_vector).answer",
            "",
            r"write `hessian_vector = checks\.NAME",
        ),
        ("checks.hessian_vector(my_", "checks.product(my_", r"lessons/by_hand/checks\.py has no such Check"),
    ],
)
def test_half_an_exercise_is_told_in_one_line_and_not_passed_on(old, new, said, tmp_path):
    (path,) = places.notebooks().glob("05_*.ipynb")
    text = path.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / path.name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(CourseError, match=said) as error:
        guide.read(tmp_path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_tidy_writes_the_guide(tmp_path, monkeypatch):
    for name in ("docs", "notebooks"):
        (tmp_path / name).mkdir()
    for path in [*places.notebooks().glob("00_*.ipynb"), places.notebooks() / "README.md"]:
        shutil.copy(path, tmp_path / "notebooks" / path.name)
    for name in (guide.NAME, guide.QUESTIONS):
        shutil.copy(DOCS / name, tmp_path / "docs" / name)
    monkeypatch.setattr(places, "notebooks", lambda: tmp_path / "notebooks")
    before = (tmp_path / "docs" / guide.NAME).read_text(encoding="utf-8")
    answer = CliRunner().invoke(app, ["tidy", "--check"])
    assert answer.exit_code == 1
    faults = [f"{what} is not of today" for what in ("the table of claims", "the teacher's guide")]
    assert answer.output == f"{', and '.join(faults)}. Run: mlcourse tidy\n"
    assert (tmp_path / "docs" / guide.NAME).read_text(encoding="utf-8") == before
    assert "the teacher's guide is new" in CliRunner().invoke(app, ["tidy"]).output
    after = (tmp_path / "docs" / guide.NAME).read_text(encoding="utf-8")
    assert "### 00 ·" in after
    assert "### 01 ·" not in after
    assert CliRunner().invoke(app, ["tidy", "--check"]).exit_code == 0


def test_a_guide_without_marks_is_one_line(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "notebooks").mkdir()
    assert guide.page(tmp_path / "other" / "notebooks") is None
    (tmp_path / "docs" / guide.NAME).write_text("nothing", encoding="utf-8")
    with pytest.raises(CourseError, match="plans: begin"):
        guide.page(tmp_path / "notebooks")


def test_a_diagnosis_is_no_markup():
    entry = guide.Entry("00_a.ipynb", "00 · A", 0, {}, {})
    entry.tasks.append(guide.Task("00.1", "a", "core", "1", "2", "my_a", ["a_b * <c> `x_y` | d"]))
    assert r"- a\_b \* \<c> `x_y` \| d" in guide.section(entry, asked=False)


# ---- the questions ----

SIGN = {"−": "-", "+": ""}
WORDS = dict(zip(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], range(11)))


def numbers(text: str) -> list[float]:
    """The numbers of a text, in figures and in words."""
    found = re.findall(rf"[−+]?\d+(?:\.\d+)?|\b(?:{'|'.join(WORDS)})\b", text)
    return [float(WORDS[one] if one in WORDS else "".join(SIGN.get(sign, sign) for sign in one)) for one in found]


def exam() -> dict[str, tuple[str, str]]:
    """The exam's questions by number, "05.2": text, and answer."""
    found = {}
    for part in re.split(r"^## ", (DOCS / guide.QUESTIONS).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        asked = re.sub(r"\n +", " ", part.split("**For an exam**")[1])  # where its lines break means nothing
        items = re.findall(r"^(\d)\. (.*?)\*Answer:\* \*\*(.*?)\*\*", asked, re.MULTILINE)
        assert len(items) == asked.count("*Answer:*") == asked.count("*With other numbers:*")
        found |= {f"{part[:2]}.{number}": (" ".join(text.split()), answer) for number, text, answer in items}
    return found


@dataclass
class Question:
    """given: its numbers; formula: what the page says; oracle: the course's own code; others: other numbers."""

    given: dict
    formula: Callable
    oracle: Callable
    others: list[dict]


def prototype_probability(a, b, query):
    points = tensor([*a, *b], dtype=F64)[None]
    labels = tensor([[0] * len(a) + [1] * len(b)])
    classes = learners.prototypes(points, labels, 2)
    logits = -learners.squared_distances(tensor([query], dtype=F64)[None], classes)
    return [logits.softmax(-1)[0, 0, 0].item()]


def prototype_formula(a, b, query):
    def away(points):
        mean = [sum(column) / len(points) for column in zip(*points)]
        return sum((m - q) ** 2 for m, q in zip(mean, query))

    return [1 / (1 + math.exp(away(a) - away(b)))]


def two_groups(tasks, low, high):
    return statistics.mean_interval([low] * (tasks // 2) + [high] * (tasks // 2))


def two_groups_formula(tasks, low, high):
    s = (high - low) / 2 * math.sqrt(tasks / (tasks - 1))
    return [(low + high) / 2, 1.96 * s / math.sqrt(tasks)]


def worlds(pairs):
    return tuple(quadratics.Quadratic(a, c) for a, c in pairs)


def starts(pairs, rate):
    """Where three methods stop, by the course's table of weights, which is held against descent elsewhere."""
    return [
        quadratics.common_start(method, worlds(pairs), rate=rate, steps=1)
        for method in ("joint", "first-order MAML", "MAML")
    ]


def weighted(pairs, weight):
    return sum(weight(a) * c for a, c in pairs) / sum(weight(a) for a, _ in pairs)


def starts_formula(pairs, rate):
    return [weighted(pairs, lambda a, k=k: a * (1 - rate * a) ** k) for k in (0, 1, 2)]


def moved(a, rate, steps):
    """dφ_T/dθ by autograd through the course's inner loop."""
    found = []
    for count in steps:
        theta = {"w": tensor(0.3, dtype=F64, requires_grad=True)}
        x, y = tensor([math.sqrt(a)], dtype=F64), tensor([0.7], dtype=F64)
        loss = {"loss": lambda p, t: 0.5 * (p - t).square().sum()}
        end = inner.adapt(lambda p, x: p["w"] * x, theta, x, y, steps=count, rate=rate, **loss)
        found.append(torch.autograd.grad(end["w"], theta["w"])[0].item())
    return found


def rows_of_the_listing(images, size):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 128, 3, padding=1), torch.nn.MaxPool2d(2))
    return [network(torch.zeros(images, 3, size, size)).view(-1, 128 * 8 * 8).shape[0]]


def shapes_of_tasks(tasks, way, shot, query):
    data = datasets.load("glyphs", "test")
    one = episodes.EpisodeSampler(data, way, shot, query).sample(tasks, torch.Generator().manual_seed(0))
    return [*one.support_x.shape[:2], *one.query_x.shape[:2]]


def with_leak(percent, queries):
    """One in `queries` is always right, the others as often as before: counted among 10,000."""
    asked = 10_000 * queries
    return [100 * (10_000 + (asked - 10_000) * percent / 100) / asked]


def linear_layer(prototypes):
    weight, bias = every_check()["compare.linear_layer"].reference(tensor(prototypes, dtype=F64))
    return [value for row, b in zip(weight.tolist(), bias.tolist()) for value in (*row, b)]


def written_numbers(features, way, blocks, channels):
    head = torch.nn.Linear(features, way)
    layers = [torch.nn.BatchNorm2d(channels) for _ in range(blocks)]  # a scale and a shift of each channel
    return [sum(p.numel() for p in part.parameters()) for part in (head, torch.nn.Sequential(*layers))]


def rows_of_a_gradient(way, z):
    weight = torch.zeros(way, len(z), dtype=F64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(weight @ tensor(z, dtype=F64), tensor(0))
    rows = torch.autograd.grad(loss, weight)[0]
    return [*rows[0].tolist(), *rows[1].tolist()]


def one_weight(a, c, d, steps, rate, theta):
    task = estimators.Task(
        inner_loss=lambda phi: 0.5 * a * (phi - c).square().sum(),
        outer_loss=lambda phi: 0.5 * (phi - d).square().sum(),
        steps=steps,
        rate=rate,
    )
    start = tensor([theta], dtype=F64)
    end = estimators.path(start, task)[-1].item()
    gradient = estimators.by_autograd(start, task).item()
    return [gradient / (end - d), end, gradient]


def one_weight_formula(a, c, d, steps, rate, theta):
    factor = (1 - rate * a) ** steps
    end = c + factor * (theta - c)
    return [factor, end, factor * (end - d)]


def pencil(at, v):
    return estimators.hessian_vector(
        lambda phi: phi[0] ** 2 * phi[1] + phi[1] ** 3, tensor(at, dtype=F64), tensor(v, dtype=F64)
    ).tolist()


def waves(low, high):
    """The height of the mean wave, by least squares, and the mean square, on many waves."""
    drawn = episodes.SinusoidTasks(amplitude=(low, high)).draw(200_000, 4, torch.Generator().manual_seed(0))
    x, y = (one.double().flatten() for one in drawn)
    return [(-(x.cos() * y).sum() / x.cos().square().sum()).item(), y.square().mean().item()]


def kept_bytes(graph, copy, steps):
    block = every_check()["price.best_block"].reference(steps, graph, copy)
    return [block, min(n * graph + -(-steps // n) * copy for n in range(1, steps + 1)), steps * graph]


def kept_formula(graph, copy, steps):
    near = math.sqrt(steps * copy / graph)
    tried = [n for n in (math.floor(near), math.ceil(near)) if 1 <= n <= steps]
    best = min(tried, key=lambda n: n * graph + math.ceil(steps / n) * copy)
    return [best, best * graph + math.ceil(steps / best) * copy, steps * graph]


def straight(first, second, steps):
    """Two points of a line, and a third."""
    line = torch.linalg.solve(tensor([[1.0, first[0]], [1.0, second[0]]]), tensor([float(first[1]), float(second[1])]))
    return [line[1].item(), (line[0] + line[1] * steps).item()]


def straight_formula(first, second, steps):
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return [slope, first[1] + slope * (steps - first[0])]


def pays_above(copy, graph):
    """The first T at which the least with checkpoints, 2√(TGP), is below TG: by bisection."""
    low, high = 0.01, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if 2 * math.sqrt(middle * graph * copy) < middle * graph else (middle, high)
    return [low]


def leashed(pairs, strengths):
    return [quadratics.common_start("iMAML", worlds(pairs), damping=strength) for strength in strengths]


def leashed_formula(pairs, strengths):
    return [weighted(pairs, lambda a, s=s: a * s**2 / (a + s) ** 2) for s in strengths]


def held_by_decay(optimum):
    """λ by the slope at the optimum, and dφ*/dλ by solving the inner problem twice."""

    def slope(phi):
        phi = tensor(phi, dtype=F64, requires_grad=True)
        return torch.autograd.grad(torch.log1p(torch.exp(-phi)), phi)[0].item()

    def solve(strength):
        low, high = 0.0, 50.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) + strength * middle < 0 else (low, middle)
        return low

    strength = -slope(optimum) / optimum
    return [strength, (solve(strength + 1e-5) - solve(strength - 1e-5)) / 2e-5]


def held_formula(optimum):
    s = 1 / (1 + math.exp(optimum))
    strength = s / optimum
    return [strength, -optimum / (s * (1 - s) + strength)]


def solvers(eigenvalues, terms, rate):
    A = torch.diag(tensor(eigenvalues, dtype=F64))
    b = torch.ones(len(eigenvalues), dtype=F64)
    right = torch.linalg.solve(A, b)

    def exact(count):
        found = linear_solvers.conjugate_gradient(lambda p: A @ p, b, iterations=count)
        return torch.allclose(found, right, rtol=1e-10)

    found = every_check()["implicit.neumann"].reference(lambda p: A @ p, b, terms=terms, rate=rate)
    slow = min(range(len(eigenvalues)), key=lambda k: eigenvalues[k])
    return [next(n for n in range(20) if exact(n)), ((found - right) / right)[slow].abs().item()]


def one_rate(start, rate):
    """The derivative by the exercise's function; the best rate by descending on it."""
    slope = every_check()["searching.rate_hypergradient"].reference

    def at(r):
        return slope(lambda p: 2 * p, lambda p: 2 * (p - 1), tensor([float(start)], dtype=F64), r).item()

    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < 0 else (low, middle)
    return [at(rate), low]


def prices(T, K, M):
    """By counting: a step or an outer loss is 1 gradient, a Hessian-vector or mixed product 2."""
    forward = sum(1 for _ in range(T)) + 1
    return [forward, forward + sum(2 for _ in range(T)), forward + sum(2 for _ in range(K)),
            forward + 1 + sum(2 for _ in range(M)) + 2]  # fmt: skip


def momentum(rate, beta):
    weights = every_check()["optimizers.linear_weights"].reference
    return [*weights(rate, beta, nesterov=False), *weights(rate, beta, nesterov=True)]


def first_step(gradients, rate):
    phi = torch.zeros(len(gradients), dtype=F64, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=rate)
    phi.grad = tensor(gradients, dtype=F64)
    optimizer.step()
    return phi.tolist()


def two_steps(lam):
    """Slopes by autograd; variances of a pair, by a rule that is exact for such polynomials of normal numbers."""
    t = tensor(lam, dtype=F64, requires_grad=True)
    exact = torch.autograd.grad(t + t * t, t)[0].item()
    truncated = torch.autograd.grad(t + t * t.detach(), t)[0].item()
    import numpy

    points, weights = numpy.polynomial.hermite_e.hermegauss(12)
    grid = [(x, y, u * v / (2 * math.pi)) for x, u in zip(points, weights) for y, v in zip(points, weights)]

    def variance(estimate):
        mean = sum(w * estimate(x, y) for x, y, w in grid)
        return sum(w * (estimate(x, y) - mean) ** 2 for x, y, w in grid)

    def pair(loss, one, other, weight):  # σ = 1
        return weight * (loss(lam + one, lam + other) - loss(lam - one, lam - other)) / 2

    es = variance(lambda x, y: pair(lambda a, b: a + b * a, x, x, x))
    short = variance(lambda x, y: pair(lambda a, b: a, x, x, x) + pair(lambda a, b: b * lam, y, y, y))
    pes = variance(lambda x, y: pair(lambda a, b: a, x, x, x) + pair(lambda a, b: b * a, x, y, x + y))
    return [exact, truncated, es, short, pes]


def spread_of_es(parameters, pairs):
    slope = torch.zeros(parameters, dtype=F64)
    slope[0] = 1
    return [float(every_check()["chaos.es_variance"].reference(slope, 0.0, 0.1, pairs))]


def paired(differences):
    b = torch.linspace(50, 90, len(differences), dtype=F64)
    mean, half = every_check()["honest.paired"].reference(b + tensor(differences, dtype=F64), b)
    return [mean.item(), half.item()]


def paired_formula(differences):
    n = len(differences)
    mean = sum(differences) / n
    return [mean, 1.96 * math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1)) / math.sqrt(n)]


def tasks_for(tasks, before, wanted):
    """How many tasks, counted up by hundreds, until an interval that shrinks as 1/√n is as short as wanted."""
    n = tasks
    while before * math.sqrt(tasks / n) > wanted * (1 + 1e-9):
        n += 100
    return [n]


def masks(scenes):
    """Masks of so many marked, wanted and shared pixels, by the exercises' functions."""
    size = max(p + t - s for p, t, s in scenes) + 10
    said, wanted = (torch.zeros(len(scenes), 1, size, dtype=torch.bool) for _ in range(2))
    for row, (p, t, s) in enumerate(scenes):
        said[row, 0, :p] = True
        wanted[row, 0, p - s : p - s + t] = True
    checks = every_check()
    each = checks["segmentation.iou"].reference(said, wanted)
    pooled = checks["segmentation.pooled_iou"].reference(said, wanted)[0]
    return [*each.tolist(), each.mean().item(), float(pooled)]


def masks_formula(scenes):
    unions = [p + t - s for p, t, s in scenes]
    each = [s / u for (_, _, s), u in zip(scenes, unions)]
    return [*each, sum(each) / len(each), sum(s for _, _, s in scenes) / sum(unions)]


def nothing_marked(percent):
    wanted = torch.zeros(1, 1, 1000, dtype=torch.bool)
    wanted[..., : 10 * percent] = True
    target, background = every_check()["segmentation.pooled_iou"].reference(torch.zeros_like(wanted), wanted)
    return [(float(target) + float(background)) / 2]


def pooled_features(features, mask):
    both = tensor([[features]], dtype=F64), tensor([mask], dtype=F64)
    return every_check()["segmentation.masked_average"].reference(*both).tolist()


def overlap_formula(a, b):
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in range(2)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)]
    return [shared / (sum(areas) - shared)]


def overlap(a, b):
    both = tensor([a], dtype=F64), tensor([b], dtype=F64)
    return flattened(every_check()["detection.box_iou"].reference(*both).tolist())


def on_one_scale(ways, accuracies):
    return [float(every_check()["capstone.normalised"].reference(tensor(accuracies, dtype=F64), tensor(ways)))]


def two_prototypes(first, second):
    labels = tensor([0] * len(first) + [1] * len(second))
    reference = every_check()["capstone.any_prototypes"].reference
    return reference(tensor([*first, *second], dtype=F64), labels).flatten().tolist()


def steps_in_budget(fixed, step, budget):
    reference = every_check()["capstone.steps_within"].reference
    return [reference(lambda steps: fixed + step * steps, budget, 1000)]


def at_rank(hits, targets, rank):
    precision, recall = every_check()["detection.precision_recall"].reference(tensor(hits), targets)
    return [float(precision[rank - 1]), float(recall[rank - 1])]


def let_in(genuine, impostor, threshold):
    scores = tensor([*genuine, *impostor], dtype=F64)
    own = torch.arange(len(scores)) < len(genuine)
    rates = every_check()["faces.error_rates"].reference(scores, own, tensor([threshold], dtype=F64))
    return [float(rate) for rate in rates]


def counted(first, second):
    drawn = tensor([0] * first + [1] * second)
    return every_check()["faces.pair_weights"].reference(drawn, tensor([[0, 0], [0, 1]])).tolist()


PAIR = [(1, -1), (4, 1)]


def flop_formula(layers, pictures):
    forward = [2 * a * b * side**2 * height * width for a, b, side, height, width in layers]
    return [pictures * (3 * sum(forward) - forward[0])]


def counted_by_pytorch(layers, pictures):
    """Each convolution by itself, on zeros: only the first one needs no gradient by its input."""
    total = 0
    for place, (a, b, side, height, width) in enumerate(layers):
        layer = torch.nn.Conv2d(a, b, side, padding=side // 2)
        x = torch.zeros(pictures, a, height, width, requires_grad=place > 0)
        total += flop.counted_flops(lambda layer=layer, x=x: layer(x).sum().backward())
    return [total]


def soft_formula(teacher, student, temperature):
    p, q = ([math.exp(v / temperature) for v in row] for row in (teacher, student))
    p, q = ([v / sum(row) for v in row] for row in (p, q))
    return [temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q))]


def soft_of_the_package(teacher, student, temperature):
    rows = (tensor([row], dtype=F64) for row in (student, teacher))
    return [distillation.soft_cross_entropy(*rows, temperature).item()]


def scored_formula(centre, support, query):
    rows = [[v - c for v, c in zip(row, centre)] for row in (support, query)]
    rows = [[v / math.hypot(*row) for v in row] for row in rows]
    return [-sum((a - b) ** 2 for a, b in zip(*rows))]


def scored(centre, support, query):
    centre, support, query = (tensor([one], dtype=F64) for one in (centre, support, query))
    return every_check()["transfer.transfer_head"].reference(support, tensor([0]), query, centre[0]).flatten().tolist()


ANSWERS = {
    "00.1": Question({"a": [(1, 0), (3, 0)], "b": [(0, 4)], "query": (1, 1)}, prototype_formula, prototype_probability,
                     [{"a": [(2, 1)], "b": [(0, 1), (1, 0)], "query": (1, 1)}]),
    "00.2": Question({"tasks": 100, "low": 0.7, "high": 0.9}, two_groups_formula, two_groups,
                     [{"tasks": 400, "low": 0.5, "high": 0.6}]),
    "01.1": Question({"pairs": PAIR, "rate": 0.1}, starts_formula, starts, [{"pairs": [(2, 3), (1, 0)], "rate": 0.2}]),
    "01.2": Question({"a": 4, "rate": 0.1, "steps": (1, 3)},
                     lambda a, rate, steps: [(1 - a * rate) ** T for T in steps], moved,
                      [{"a": 5, "rate": 0.3, "steps": (2, 5)}]),
    "02.1": Question({"images": 100, "size": 48}, lambda images, size: [images * (size // 2) ** 2 / 64],
                     rows_of_the_listing, [{"images": 20, "size": 16}, {"images": 10, "size": 64}]),
    "02.2": Question({"tasks": 3, "way": 5, "shot": 2, "query": 4},
                     lambda tasks, way, shot, query: [tasks, way * shot, tasks, way * query],
                     shapes_of_tasks, [{"tasks": 2, "way": 3, "shot": 1, "query": 6}]),
    "02.3": Question({"percent": 60, "queries": 4}, lambda percent, queries: [percent + (100 - percent) / queries],
                     with_leak, [{"percent": 35, "queries": 5}]),
    "03.1": Question({"prototypes": [(1, 2), (0, -1)]},
                     lambda prototypes: [v for a, b in prototypes for v in (2 * a, 2 * b, -(a * a + b * b))],
                     linear_layer, [{"prototypes": [(3, -2), (0.5, 1)]}]),
    "03.2": Question({"way": 5, "temperature": 0.5},
                     lambda way, temperature: [1 / (1 + (way - 1) * math.exp(-1 / temperature))],
                     lambda way, temperature: [pictures.surest(way, temperature)], [{"way": 20, "temperature": 0.1}]),
    "04.1": Question({"features": 64, "way": 5, "blocks": 4, "channels": 64},
                     lambda features, way, blocks, channels: [way * (features + 1), 2 * blocks * channels],
                     written_numbers, [{"features": 128, "way": 20, "blocks": 3, "channels": 32}]),
    "04.2": Question({"way": 5, "z": (2, -1)}, lambda way, z: [*((1 / way - 1) * v for v in z), *(v / way for v in z)],
                     rows_of_a_gradient, [{"way": 2, "z": (0.5, 4.0)}]),
    "05.1": Question({"a": 4, "c": 1, "d": -1, "steps": 3, "rate": 0.4, "theta": 0.5}, one_weight_formula, one_weight,
                     [{"a": 2, "c": 0, "d": 3, "steps": 2, "rate": 0.1, "theta": 1.5}]),
    "05.2": Question({"at": (1.0, 2.0), "v": (2.0, 1.0)},
                     lambda at, v: [2 * at[1] * v[0] + 2 * at[0] * v[1], 2 * at[0] * v[0] + 6 * at[1] * v[1]],
                     pencil, [{"at": (3.0, -1.0), "v": (1.0, 5.0)}]),
    "06.1": Question({"low": 1, "high": 3},
                     lambda low, high: [(low + high) / math.pi, (high**3 - low**3) / (6 * (high - low))],
                     waves, [{"low": 0.1, "high": 5.0}]),
    "06.2": Question({"classes": [(7, 8), (7, 8), (8, 7)]}, lambda classes: [labels_known(classes)],
                     lambda classes: [float(every_check()["maml.ceiling"].reference(tensor(classes)))],
                     [{"classes": [(1, 2), (2, 3), (3, 1)]}]),
    "07.1": Question({"graph": 4, "copy": 1, "steps": 36}, kept_formula, kept_bytes,
                     [{"graph": 2, "copy": 8, "steps": 64}, {"graph": 9, "copy": 1, "steps": 36}]),
    "07.2": Question({"first": (4, 30), "second": (8, 50), "steps": 36}, straight_formula, straight,
                     [{"first": (2, 11), "second": (10, 35), "steps": 20}]),
    "07.3": Question({"copy": 10, "graph": 2}, lambda copy, graph: [4 * copy / graph], pays_above,
                     [{"copy": 3, "graph": 7}]),
    "08.1": Question({"pairs": PAIR, "strengths": (1, 2)}, leashed_formula, leashed,
                     [{"pairs": [(2, 0), (3, 5)], "strengths": (0.1, 10)}]),
    "08.2": Question({"optimum": 1.0}, held_formula, held_by_decay, [{"optimum": 2.0}, {"optimum": 0.5}]),
    "08.3": Question({"eigenvalues": (1, 4), "terms": 10, "rate": 0.25},
                     lambda eigenvalues, terms, rate: [len(set(eigenvalues)), (1 - rate * min(eigenvalues)) ** terms],
                     solvers, [{"eigenvalues": (2, 2, 5, 9), "terms": 7, "rate": 0.1}]),
    "09.1": Question({"start": 3, "rate": 0.1},
                     lambda start, rate: [-2 * (start - 2 * rate * start - 1) * 2 * start, (start - 1) / (2 * start)],
                     one_rate, [{"start": 2, "rate": 0.4}]),
    "09.2": Question({"T": 50, "K": 5, "M": 10}, lambda T, K, M: [T + 1, 3 * T + 1, T + 2 * K + 1, T + 2 * M + 4],
                     prices, [{"T": 20, "K": 1, "M": 3}]),
    "10.1": Question({"rate": 0.1, "beta": 0.9},
                     lambda rate, beta: [0, -rate / (1 - beta), -rate, -rate * beta / (1 - beta)],
                     momentum, [{"rate": 0.5, "beta": 0.5}]),
    "10.2": Question({"gradients": (1000, 0.001), "rate": 0.01},
                     lambda gradients, rate: [-rate * math.copysign(1, g) for g in gradients],
                     first_step, [{"gradients": (-3.0, 7.0), "rate": 0.2}]),
    "11.1": Question({"lam": 0.5},
                     lambda lam: [1 + 2 * lam, 1 + lam, 2 * (1 + 2 * lam) ** 2, 2 + 2 * lam**2,
                                  2 + 4 * lam + 8 * lam**2],
                     two_steps, [{"lam": -1.5}, {"lam": 2.0}]),
    "11.2": Question({"parameters": 99, "pairs": 10}, lambda parameters, pairs: [(parameters + 1) / pairs],
                     spread_of_es, [{"parameters": 7, "pairs": 3}]),
    "12.1": Question({"differences": (2, 4, 4, 6)}, paired_formula, paired, [{"differences": (-1, 5, 2)}]),
    "12.3": Question({"tasks": 100, "before": 0.8, "wanted": 0.2},
                     lambda tasks, before, wanted: [tasks * (before / wanted) ** 2],
                     tasks_for, [{"tasks": 200, "before": 0.6, "wanted": 0.3}]),
    "13.1": Question({"scenes": [(20, 30, 15), (100, 80, 76)]}, masks_formula, masks,
                     [{"scenes": [(5, 9, 2), (40, 10, 10)]}]),
    "13.2": Question({"percent": 5}, lambda percent: [(0 + 1 - percent / 100) / 2], nothing_marked, [{"percent": 30}]),
    "13.3": Question({"features": (1, 3), "mask": (1, 0.5)},
                     lambda features, mask: [sum(m * f for m, f in zip(mask, features)) / sum(mask)],
                     pooled_features, [{"features": (2, 5, -1), "mask": (0.1, 0.2, 0.7)}]),
    "14.1": Question({"a": (0, 0, 4, 2), "b": (2, 0, 6, 2)}, overlap_formula, overlap,
                     [{"a": (0, 0, 3, 3), "b": (1, 1, 2, 5)}, {"a": (0, 0, 1, 1), "b": (2, 2, 3, 3)}]),
    "14.2": Question({"hits": (1, 0, 1, 0), "targets": 3, "rank": 3},
                     lambda hits, targets, rank: [sum(hits[:rank]) / rank, sum(hits[:rank]) / targets],
                     lambda hits, targets, rank: at_rank([bool(hit) for hit in hits], targets, rank),
                     [{"hits": (0, 1, 1, 1), "targets": 5, "rank": 4}]),
    "14.3": Question({"boxes": (2, 0), "none": 1, "temperature": 1},
                     lambda boxes, none, temperature: [
                         math.exp(boxes[0] / temperature)
                         / sum(math.exp(score / temperature) for score in (*boxes, none))],
                     lambda boxes, none, temperature: [
                         float((tensor([*boxes, none], dtype=F64) / temperature).softmax(0)[0])],
                     [{"boxes": (0.5, 0.2, 0.9), "none": 0.1, "temperature": 0.3}]),
    "15.1": Question({"genuine": (0.9, 0.6, 0.4), "impostor": (0.6, 0.3, 0.1, -0.2), "threshold": 0.6},
                     lambda genuine, impostor, threshold: [sum(s >= threshold for s in impostor) / len(impostor),
                                                           sum(s < threshold for s in genuine) / len(genuine)],
                     let_in, [{"genuine": (0.2, 0.8), "impostor": (0.5, 0.4, 0.1), "threshold": 0.3}]),
    "15.2": Question({"fmr": 0.001, "size": 300}, lambda fmr, size: [1 - (1 - fmr) ** size],
                     lambda fmr, size: every_check()["faces.fpir"].reference(tensor([fmr], dtype=F64), size).tolist(),
                     [{"fmr": 0.02, "size": 10}]),
    "15.3": Question({"first": 3, "second": 2}, lambda first, second: [first, first * second], counted,
                     [{"first": 1, "second": 4}]),
    "16.1": Question({"layers": [(1, 8, 3, 14, 14), (8, 16, 3, 7, 7)], "pictures": 10}, flop_formula,
                     counted_by_pytorch, [{"layers": [(2, 3, 5, 6, 6), (3, 4, 3, 3, 3)], "pictures": 7}]),
    "16.2": Question({"teacher": (2, 0), "student": (0, 0), "temperature": 2}, soft_formula, soft_of_the_package,
                     [{"teacher": (1, -1), "student": (0.5, 0), "temperature": 4}]),
    "16.3": Question({"centre": (1, 1), "support": (4, 5), "query": (1, 3)}, scored_formula, scored,
                     [{"centre": (0, 2), "support": (3, 3), "query": (-1, 5)}]),
    "17.1": Question({"ways": (2, 5), "accuracies": (0.8, 0.6)},
                     lambda ways, accuracies: [
                         sum((a - 1 / n) / (1 - 1 / n) for n, a in zip(ways, accuracies)) / len(ways)],
                     on_one_scale, [{"ways": (3, 20, 4), "accuracies": (0.2, 0.5, 1.0)}]),
    "17.2": Question({"first": [(1, 2), (3, 4), (5, 0)], "second": [(2, 6)]},
                     lambda first, second: [sum(column) / len(rows) for rows in (first, second)
                                            for column in zip(*rows)],
                     two_prototypes, [{"first": [(0.5, 1)], "second": [(1, 1), (4, -1)]}]),
    "17.3": Question({"fixed": 300, "step": 70, "budget": 1000},
                     lambda fixed, step, budget: [(budget - fixed) // step],
                     steps_in_budget, [{"fixed": 10, "step": 3, "budget": 100}]),
}  # fmt: skip


def labels_known(classes):
    """Each class gets its most frequent label; the share of entries with it."""
    known = {one for row in classes for one in row}
    right = sum(max(sum(row[k] == one for row in classes) for k in range(len(classes[0]))) for one in known)
    return right / sum(map(len, classes))


def flattened(value) -> list[float]:
    return [one for part in value for one in flattened(part)] if isinstance(value, list | tuple) else [float(value)]


def test_each_question_of_the_exam_has_an_oracle():
    asked, held = set(exam()), {*ANSWERS, "12.2"}
    assert asked == held, (
        f"write a case in ANSWERS for {sorted(asked - held)}; docs/questions.md lacks {sorted(held - asked)}"
    )
    known = {path.name[:2] for path in places.notebooks().glob("[0-9][0-9]_*.ipynb")}
    assert set(guide.questions(DOCS / guide.QUESTIONS)) <= known


@pytest.mark.parametrize("number", ANSWERS)
def test_the_answer_is_what_the_course_computes(number):
    text, printed = exam()[number]
    one = ANSWERS[number]
    assert set(flattened(list(one.given.values()))) <= set(numbers(text)), f"{number}: the text has other numbers"
    right = [float(value) for value in one.oracle(**one.given)]
    parts = [part.strip() for part in printed.split(",")]
    assert len(parts) == len(right)
    for part, value in zip(parts, right):
        digits = len(part.split(".")[1]) if "." in part else 0
        noise = 0.005 * abs(value) if number == "06.1" else 1e-6  # a mean over drawn waves
        assert numbers(part)[0] == pytest.approx(value, abs=0.51 * 10**-digits + noise), (
            f"{number}: {part}, not {value}"
        )


@pytest.mark.parametrize("number", ANSWERS)
def test_the_formula_holds_for_other_numbers(number):
    one = ANSWERS[number]
    tolerance = {"rel": 0.01} if number == "06.1" else {"rel": 1e-4, "abs": 1e-9}
    for given in (one.given, *one.others):
        assert list(one.formula(**given)) == pytest.approx([float(v) for v in one.oracle(**given)], **tolerance), given


def test_the_sentence_of_the_exam_is_the_strongest():
    text, printed = exam()["12.2"]
    over = {"tasks": (0.4, 1.2), "scripts": (-0.5, 2.0), "seeds": (0.1, 1.5)}
    assert {value for ends in over.values() for value in ends} <= set(numbers(text))
    said = every_check()["honest.sentence"].reference("A", "B", over["tasks"], over["scripts"], over["seeds"])
    assert said == printed
