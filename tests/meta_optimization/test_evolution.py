"""Evolution strategies against closed forms: every mean within 3 standard errors, every standard error at most 2 %."""

from functools import partial

import pytest
import torch

from mlcourse import files, training
from mlcourse.errors import CourseError
from mlcourse.lessons.chaos.unroll_examples import (
    influence_balancing,
    influence_balancing_gradient,
    ravine,
    spiral,
    spiral_gradient,
    two_steps,
)
from mlcourse.meta_optimization import evolution
from mlcourse.meta_optimization.evolution import (
    Estimator,
    Particles,
    Unroll,
    es,
    exact,
    measure,
    pes,
    truncated,
    truncated_es,
)
from mlcourse.teaching.oracles import gradient_error

F64 = torch.float64
HALF = torch.tensor(0.5, dtype=F64)
TURN = torch.tensor([0.05, 0.4], dtype=F64)  # (ρ, ω) of the spiral


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distance(mean, error, expected):
    """How many standard errors the mean is from the expected gradient: the worst component."""
    return ((mean - expected).abs() / error).max().item()


def assert_right(estimator, problem, lam, expected, *, repeats=40, particles=2000, **options):
    """80,000 particles (40,000 pairs), seed 0: within 3 standard errors, which are at most 2 % of the gradient."""
    mean, error = measure(estimator, problem, lam, repeats=repeats, particles=particles, generator=seeded(), **options)
    assert error.norm() <= 0.02 * expected.norm()
    assert distance(mean, error, expected) <= 3


# ------------------------------------------------------------------ backpropagation


def test_exact_and_truncated_equal_what_one_writes_down():
    value, gradient = exact(two_steps(), HALF)
    assert (value.item(), gradient.item()) == (0.75, 2.0)  # λ + λ², 1 + 2λ
    assert truncated(two_steps(), HALF, truncation=1)[1].item() == 1.5  # 1 + λ: the state λ counts as a constant
    balancing = exact(influence_balancing(), HALF)[1]
    torch.testing.assert_close(balancing, influence_balancing_gradient(HALF), rtol=1e-12, atol=0)
    torch.testing.assert_close(exact(spiral(), TURN)[1], spiral_gradient(TURN), rtol=1e-12, atol=0)


@pytest.mark.parametrize("problem", [spiral(), ravine(horizon=8)], ids=["spiral", "ravine"])
def test_exact_equals_richardson_differences_of_the_unroll(problem):
    lam = torch.tensor([-1.5, -2.0], dtype=F64)
    gradient = exact(problem, lam)[1]
    assert gradient_error(lambda at: exact(problem, at)[0], lam, gradient, seeded()) < 1e-8


def test_closed_forms_equal_richardson_differences_too():
    """The gradient of the smoothed loss of the spiral, by quadrature over a fine grid of two normal perturbations."""
    sigma, horizon = 0.1, 4
    nodes = torch.linspace(-7, 7, 141, dtype=F64)
    weights = torch.exp(-0.5 * nodes**2)
    weights = weights / weights.sum()

    def smoothed(lam, windows):
        # the sum of perturbations over `windows` windows of 4/windows steps, for each component
        total = 0.0
        for t in range(1, horizon + 1):
            length = horizon // windows
            whole, rest = divmod(t, length)
            scale = sigma * (whole * length**2 + rest**2) ** 0.5
            rho = (weights * (2 * (lam[0] * t + scale * nodes)).exp()).sum()
            turn = (weights * (lam[1] * t + scale * nodes).cos().square()).sum()
            total = total + rho * turn
        return total

    for windows, truncation in ((1, None), (2, 2)):
        gradient = spiral_gradient(TURN, horizon, sigma=sigma, truncation=truncation)
        assert gradient_error(partial(smoothed, windows=windows), TURN, gradient, seeded()) < 1e-8


# ------------------------------------------------------------------ by perturbation


def test_es_and_pes_are_right_on_a_quadratic():
    expected = influence_balancing_gradient(HALF)  # smoothing does not change the slope of a quadratic
    assert_right(es, influence_balancing(), HALF, expected, sigma=0.1)
    assert_right(pes, influence_balancing(), HALF, expected, sigma=0.1, truncation=10)


def test_es_and_pes_estimate_the_smoothed_gradient_of_a_system_that_is_not_linear():
    sigma = 0.05
    plain, once = spiral_gradient(TURN), spiral_gradient(TURN, sigma=sigma)
    by_window = spiral_gradient(TURN, sigma=sigma, truncation=3)
    assert (once - plain).norm() > 0.5 * plain.norm()  # or the test could not tell smoothed from plain
    assert (by_window - plain).norm() > 0.1 * plain.norm()
    assert_right(es, spiral(), TURN, once, sigma=sigma)
    assert_right(pes, spiral(), TURN, by_window, sigma=sigma, truncation=3)
    assert_right(pes, spiral(), TURN, plain, sigma=0.002, truncation=3)  # and σ → 0 leads to the gradient itself


def test_truncation_is_off_by_far_where_pes_is_right():
    expected = influence_balancing_gradient(HALF)
    settings = {"repeats": 20, "particles": 1000, "sigma": 0.1, "truncation": 10}
    mean, error = measure(truncated_es, influence_balancing(), HALF, generator=seeded(), **settings)
    _, pes_error = measure(pes, influence_balancing(), HALF, generator=seeded(), **settings)
    assert distance(mean, error, expected) > 10
    assert distance(mean, pes_error, expected) > 10
    assert mean < 0 < expected  # even the sign is wrong
    backwards = truncated(influence_balancing(), HALF, truncation=10)[1]
    assert distance(backwards, pes_error, expected) > 10
    assert distance(mean, error, backwards) < 3  # both truncations are wrong in the same way


def wrong_window(problem, lam, at=None, *, slip, sigma, particles, truncation, generator):
    """Persistent ES with a slip. after: ξ takes in ε only once the losses are weighted. reset: ξ is the window's ε."""
    noise = evolution.perturbations(lam, particles // 2, sigma, generator)
    lams = evolution.both_sides(lam, noise)
    fresh = at is None
    state = evolution.start(problem, lams, torch.zeros(particles), each=True) if fresh else at.state
    before = torch.zeros_like(noise) if fresh else at.shift
    t = 0 if fresh else int(at.t)
    losses, state = evolution.advance(problem, lams, state, t, truncation, each=True)
    weight = {"after": before, "reset": noise, "none": before + noise}[slip]
    gradient = evolution.slope(weight, losses, sigma)
    return losses.mean(), gradient, Particles(torch.tensor(t + truncation), state, before + noise)


@pytest.mark.parametrize("slip", ["after", "reset"])
def test_published_slips_would_fail(slip):
    settings = {"repeats": 20, "particles": 1000, "sigma": 0.1, "generator": seeded()}
    for problem, lam, truncation, expected in (
        (influence_balancing(), HALF, 50, influence_balancing_gradient(HALF)),
        (two_steps(), HALF, 1, 1 + 2 * HALF),
    ):
        settings |= {"truncation": truncation}
        mean, error = measure(partial(evolution.horizon_of, partial(wrong_window, slip=slip)), problem, lam, **settings)
        assert distance(mean, error, expected) > 10
        right = measure(partial(evolution.horizon_of, partial(wrong_window, slip="none")), problem, lam, **settings)
        assert distance(*right, expected) < 3  # the test's own copy is right without the slip


def test_two_steps_by_hand():
    """One pair, T = 2, K = 1: each number of every estimator, from the two perturbations."""
    sigma, lam = 0.3, HALF.item()
    first, second = (sigma * torch.randn(2, 1, generator=seeded(), dtype=F64)).flatten().tolist()
    options = {"sigma": sigma, "particles": 2}

    def slope(weight, plus, minus):
        return weight * (plus - minus) / (2 * sigma**2)

    one = slope(first, lam + first, lam - first)
    two = slope(first + second, (lam + first) * (lam + second), (lam - first) * (lam - second))
    value, gradient = pes(two_steps(), HALF, truncation=1, generator=seeded(), **options)
    assert gradient.item() == pytest.approx(one + two, rel=1e-12)
    assert value.item() == pytest.approx(lam + lam**2 + first * second, rel=1e-12)
    cut = slope(second, lam * (lam + second), lam * (lam - second))  # from the state λ of the unperturbed trajectory
    gradient = truncated_es(two_steps(), HALF, truncation=1, generator=seeded(), **options)[1]
    assert gradient.item() == pytest.approx(one + cut, rel=1e-12)
    plus, minus = ((lam + e) + (lam + e) ** 2 for e in (first, -first))
    assert es(two_steps(), HALF, generator=seeded(), **options)[1].item() == pytest.approx(
        slope(first, plus, minus), rel=1e-12
    )


def test_pes_over_the_whole_horizon_is_es_to_the_bit():
    options = {"sigma": 0.1, "particles": 32}
    for problem, lam in ((influence_balancing(), HALF), (spiral(), TURN), random_problem()):
        whole = es(problem, lam, generator=seeded(3), **options)
        persistent = pes(problem, lam, truncation=problem.horizon, generator=seeded(3), **options)
        assert torch.equal(whole[0], persistent[0])
        assert all(map(torch.equal, evolution.leaves(whole[1]), evolution.leaves(persistent[1])))


def test_pairs_are_mirror_images_and_cancel_what_is_even():
    noise = evolution.perturbations(TURN, 5, 0.1, seeded())
    plus, minus = evolution.both_sides(TURN, noise).chunk(2)
    assert plus.shape == (5, 2)
    torch.testing.assert_close(plus + minus, (2 * TURN).expand(5, 2), rtol=1e-15, atol=0)

    def bowl(offset):
        return Unroll(lambda lam, _: lam, lambda s, lam, t: s, lambda s, lam, t: s.square().sum() + offset, horizon=3)

    nothing = es(bowl(0.0), torch.zeros(2, dtype=F64), sigma=0.1, particles=10, generator=seeded())[1]
    assert torch.equal(nothing, torch.zeros(2, dtype=F64))  # not small: zero
    low, high = (es(bowl(c), TURN, sigma=0.1, particles=10, generator=seeded())[1] for c in (0.0, 1e6))
    torch.testing.assert_close(low, high, rtol=0, atol=1e-7)  # a constant costs digits, and no more


# ------------------------------------------------------------------ dictionaries, draws, the plain loop


def random_problem(horizon=6):
    """λ and the state are dictionaries; each trajectory draws a start and a target of its own."""

    def draw(n, generator):
        return {"start": torch.randn(n, 2, generator=generator, dtype=F64), "goal": torch.rand(n, generator=generator)}

    def init(lam, draw):
        return {"at": draw["start"] * lam["size"], "goal": draw["goal"]}

    def step(s, lam, t):
        return s | {"at": torch.tanh(lam["matrix"] @ s["at"]) + 0.1 * t * s["goal"]}

    def loss(s, lam, t):
        return (s["at"].sum() - s["goal"]).square()

    lam = {"matrix": torch.tensor([[0.9, -0.4], [0.2, 0.7]], dtype=F64), "size": torch.tensor(1.3, dtype=F64)}
    return Unroll(init, step, loss, horizon, draw), lam


def test_all_at_once_equals_a_plain_loop():
    problem, lam = random_problem()
    sigma, pairs, k = 0.2, 4, 2
    generator = seeded(1)
    draws = problem.draw(pairs, generator)
    shift = {name: torch.zeros(pairs, *value.shape, dtype=F64) for name, value in lam.items()}
    at = {}
    total = {name: torch.zeros_like(value) for name, value in lam.items()}
    value = 0.0
    for t in range(0, problem.horizon, k):
        noise = {name: sigma * torch.randn(pairs, *v.shape, generator=generator, dtype=F64) for name, v in lam.items()}
        for i in range(pairs):
            losses = {}
            for sign in (1, -1):
                mine = {name: v + sign * noise[name][i] for name, v in lam.items()}
                s = problem.init(mine, {n: d[i] for n, d in draws.items()}) if t == 0 else at[i, sign]
                losses[sign] = 0.0
                for now in (t + 1, t + 2):
                    s = problem.step(s, mine, now)
                    losses[sign] += problem.loss(s, mine, now)
                at[i, sign] = s
                value += losses[sign] / (2 * pairs)
            for name in lam:
                shift[name][i] += noise[name][i]
                total[name] += shift[name][i] * (losses[1] - losses[-1]) / (2 * sigma**2) / pairs
    got_value, got = pes(problem, lam, sigma=sigma, particles=2 * pairs, truncation=k, generator=seeded(1))
    torch.testing.assert_close(got_value, value, rtol=1e-12, atol=0)
    for name in lam:
        torch.testing.assert_close(got[name], total[name], rtol=1e-11, atol=1e-13)
    # and backpropagation: the mean over trajectories, one after the other
    draws = problem.draw(3, seeded(2))
    leaves = {name: v.clone().requires_grad_() for name, v in lam.items()}
    outer = 0.0
    for i in range(3):
        s = problem.init(leaves, {n: d[i] for n, d in draws.items()})
        for now in range(1, problem.horizon + 1):
            s = problem.step(s, leaves, now)
            outer = outer + problem.loss(s, leaves, now) / 3
    expected = torch.autograd.grad(outer, list(leaves.values()))
    got = exact(problem, lam, trajectories=3, generator=seeded(2))[1]
    for gradient, wanted in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)


def test_the_estimators_change_nothing_that_came_in_and_work_under_no_grad():
    problem, lam = random_problem()
    before = [value.clone() for value in lam.values()]
    asks = {name: value.clone().requires_grad_() for name, value in lam.items()}
    for estimator, options in (
        (exact, {}),
        (truncated, {"truncation": 2, "trajectories": 2}),
        (es, {"sigma": 0.1, "particles": 4}),
        (pes, {"sigma": 0.1, "particles": 4, "truncation": 3}),
    ):
        value, gradient = estimator(problem, lam, generator=seeded(), **options)
        with torch.no_grad():
            again = estimator(problem, asks, generator=seeded(), **options)
        assert torch.equal(value, again[0])
        for name in lam:
            assert torch.equal(gradient[name], again[1][name])
            assert gradient[name].shape == lam[name].shape
            assert not again[1][name].requires_grad
    assert all(map(torch.equal, lam.values(), before))


def test_draws_come_to_the_device_of_lambda():
    problem, lam = random_problem()
    elsewhere = {name: value.to("meta") for name, value in lam.items()}
    for draws in (None, problem.draw(3, seeded())):  # drawn there, or given as a batch
        moved = evolution.draws_of(problem, elsewhere, 3, seeded(), draws)
        assert [value.device.type for value in moved.values()] == ["meta", "meta"]


# ------------------------------------------------------------------ where the trajectories stand


@pytest.mark.parametrize("kind", ["truncated", "es", "pes"])
def test_particles_go_through_a_file_and_on_to_the_same_numbers(kind, tmp_path):
    problem, lam = random_problem()
    options = {"truncation": 2, "generator": seeded(5)}
    options |= {"trajectories": 3} if kind == "truncated" else {"sigma": 0.1, "particles": 6}
    window = partial(evolution.WINDOWS[kind], problem, lam, **options)
    _, _, at = window()
    files.save_tensors(tmp_path / "at.safetensors", at.tensors())
    # on some processors another layout in memory means another rounding
    saved = files.load_tensors(tmp_path / "at.safetensors")[0]
    assert {name: value.stride() for name, value in at.tensors().items()} == {n: v.stride() for n, v in saved.items()}
    there = options["generator"].get_state()
    straight = [window(at)]
    straight.append(window(straight[0][2]))
    options["generator"].set_state(there)
    resumed = [window(Particles.of(files.load_tensors(tmp_path / "at.safetensors")[0]))]
    resumed.append(window(resumed[0][2]))
    for one, other in zip(straight, resumed, strict=True):
        assert torch.equal(one[0], other[0])
        assert all(map(torch.equal, one[1].values(), other[1].values()))
    assert int(resumed[1][2].t) == problem.horizon


def test_an_empty_part_of_a_state_survives_its_file(tmp_path):
    at = Particles(torch.tensor(3), {"weights": {"w": TURN}, "memory": {}})
    files.save_tensors(tmp_path / "at.safetensors", at.tensors())
    again = Particles.of(files.load_tensors(tmp_path / "at.safetensors")[0])
    assert (again.state["memory"], again.shift) == ({}, {})
    assert torch.equal(again.state["weights"]["w"], TURN)


def test_windows_in_a_row_are_the_horizon_and_then_start_anew():
    problem, lam = random_problem()
    options = {"sigma": 0.1, "particles": 4, "truncation": 3}
    generator = seeded(7)
    _, first, at = evolution.pes_window(problem, lam, generator=generator, **options)
    _, second, at = evolution.pes_window(problem, lam, at, generator=generator, **options)
    whole = pes(problem, lam, generator=seeded(7), **options)[1]
    for name in lam:
        torch.testing.assert_close(first[name] + second[name], whole[name], rtol=1e-13, atol=0)
    _, _, new = evolution.pes_window(problem, lam, at, generator=generator, **options)
    assert int(new.t) == 3
    assert not torch.equal(new.state["goal"], at.state["goal"])  # other draws, and ξ is one window's ε again
    assert new.shift["matrix"].std() < at.shift["matrix"].std() * 2
    _, _, fixed = evolution.pes_window(problem, lam, new, generator=generator, **options)
    assert torch.equal(fixed.state["goal"], new.state["goal"])


# ------------------------------------------------------------------ behind the training loop


@pytest.mark.parametrize("kind", ["truncated", "es", "pes"])
def test_backward_leaves_the_estimate_of_each_window(kind):
    problem, lam = random_problem()
    learner = Estimator(problem, lam, estimator=kind, truncation=2, particles=4, sigma=0.1)
    options = {"truncation": 2} | ({"trajectories": 4} if kind == "truncated" else {"sigma": 0.1, "particles": 4})
    mine, theirs, at = seeded(1), seeded(1), None
    for t in (2, 4, 6, 2):
        loss, metrics = learner.outer_loss(None, generator=mine)
        learner.zero_grad()
        (3 * loss).backward()
        value, gradient, at = evolution.WINDOWS[kind](problem, lam, at, generator=theirs, **options)
        assert loss.item() == value.item()
        assert metrics["t"] == t
        for parameter, expected in zip(learner.parameters(), gradient.values(), strict=True):
            torch.testing.assert_close(parameter.grad, 3 * expected, rtol=1e-14, atol=0)


def test_a_module_a_batch_and_clipping():
    network = torch.nn.Linear(2, 1, bias=False).double()
    network.register_parameter("frozen", torch.nn.Parameter(torch.ones(1), requires_grad=False))
    problem = Unroll(
        init=lambda lam, draw: draw,
        step=lambda s, lam, t: torch.func.functional_call(network, lam, (s,)).expand(2),
        loss=lambda s, lam, t: s.square().sum(),
        horizon=2,
        draw=lambda n, generator: torch.randn(n, 2, generator=generator, dtype=F64),
    )
    batch = torch.ones(2, 2, dtype=F64)
    plain = Estimator(problem, network, estimator="truncated", particles=2)
    loss, metrics = plain.outer_loss(batch)
    loss.backward()
    lam = {"weight": network.weight.detach()}
    expected = exact(Unroll(problem.init, problem.step, problem.loss, 2, lambda n, g: batch[:n]), lam)[1]["weight"]
    torch.testing.assert_close(network.weight.grad, expected, rtol=1e-13, atol=0)
    assert metrics["norm"] == pytest.approx(expected.norm().item())
    network.zero_grad()
    Estimator(problem, network, estimator="truncated", particles=2, clip=0.01).outer_loss(batch)[0].backward()
    torch.testing.assert_close(network.weight.grad, expected * 0.01 / expected.norm(), rtol=1e-12, atol=0)
    with pytest.raises(CourseError, match="the draws are of 2 trajectories; 3 start here"):
        Estimator(problem, network, estimator="es", particles=6).outer_loss(batch, generator=seeded())


class Draws:
    """A source that breaks off once, before a step of one's choice: as a power cut would."""

    def __init__(self, draw, stop=None):
        self.draw, self.left = draw, stop

    def sample(self, tasks, generator):
        if self.left is not None:
            if self.left == 0:
                raise ConnectionError("cut off")
            self.left -= 1
        return self.draw(tasks, generator)


def test_training_resumes_in_the_middle_of_a_horizon_to_the_same_numbers(tmp_path):
    problem, lam = random_problem()

    def run(source, out, **options):
        learner = Estimator(problem, lam, estimator="pes", truncation=2, particles=8, sigma=0.1)
        settings = {"steps": 7, "tasks": 4, "rate": 0.02, "validate_every": 1, "progress": False}
        history = training.train(learner, source, out=out, **settings, **options)
        return learner.lam(), history.losses

    expected, losses = run(Draws(problem.draw), tmp_path / "straight")
    with pytest.raises(ConnectionError):
        run(Draws(problem.draw, stop=5), tmp_path / "cut")  # after 5 windows: t = 4 of 6 in the second horizon
    resumed, again = run(Draws(problem.draw), tmp_path / "cut", resume=True)
    assert again == losses
    assert all(map(torch.equal, resumed.values(), expected.values()))


def test_the_progress_bar_shows_the_loss_where_there_is_no_accuracy(capsys):
    learner = Estimator(two_steps(), HALF, estimator="truncated", particles=1)
    training.train(learner, Draws(lambda n, generator: torch.zeros(n)), steps=2, tasks=1, rate=1e-9)
    shown = capsys.readouterr().out
    assert "loss=0.750" in shown
    assert "nan" not in shown


def test_pes_finds_the_minimum_that_short_windows_run_away_from():
    """Influence balancing: the best λ is where the closed form is 0. Truncated ES walks the other way."""
    slopes = [influence_balancing_gradient(torch.tensor(x, dtype=F64)) for x in (0.0, 1.0)]
    best = (-slopes[0] / (slopes[1] - slopes[0])).item()
    reached = {}
    for kind in ("pes", "es"):
        learner = Estimator(influence_balancing(), HALF, estimator=kind, truncation=10, particles=200, sigma=0.1)
        settings = {"steps": 120, "tasks": 100, "rate": 0.05, "progress": False}
        training.train(learner, Draws(lambda n, generator: torch.zeros(n)), **settings)
        reached[kind] = learner.lam().item()
    assert abs(reached["pes"] - best) < 0.1
    assert reached["es"] > HALF.item() > best + 0.3


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"particles": 5}, "particles is 5; they come in pairs"),
        ({"particles": 0}, "particles is 0"),
        ({"truncation": 5}, "truncation 5 does not divide the horizon 12"),
        ({"truncation": 0}, "truncation is 0"),
        ({"generator": None}, "perturbations need a generator"),
    ],
)
def test_errors_name_the_value_and_the_remedy(change, message):
    options = {"sigma": 0.1, "particles": 4, "truncation": 3, "generator": seeded()} | change
    for estimator in (pes, truncated_es):
        with pytest.raises(CourseError, match=message):
            estimator(spiral(), TURN, **options)


def test_more_errors():
    options = {"sigma": 0.1, "particles": 4, "truncation": 3, "generator": seeded()}
    with pytest.raises(CourseError, match="horizon is 0"):
        spiral(0)
    with pytest.raises(CourseError, match="of 4 trajectories is not finite by step 3; use a smaller sigma"):
        pes(spiral(), torch.tensor([300.0, 0.0], dtype=F64), **options)
    with pytest.raises(CourseError, match="of 1 trajectories is not finite by step 12"):
        exact(spiral(), torch.tensor([300.0, 0.0], dtype=F64))
    with pytest.raises(CourseError, match="repeats is 1"):
        measure(es, spiral(), TURN, repeats=1, generator=seeded(), sigma=0.1, particles=4)
    at = evolution.pes_window(spiral(), TURN, **options)[2]
    with pytest.raises(CourseError, match="the particles are 4 trajectories, not 6"):
        evolution.pes_window(spiral(), TURN, at, **options | {"particles": 6})
    with pytest.raises(CourseError, match="after 3 of 12 steps there is no window of 12 left"):
        evolution.pes_window(spiral(), TURN, at, **options | {"truncation": 12})
    with pytest.raises(CourseError, match="estimator 'cma' is unknown; use one of truncated, es, pes"):
        Estimator(spiral(), TURN, estimator="cma")
    with pytest.raises(CourseError, match="clip is 0"):
        Estimator(spiral(), TURN, clip=0)
    with pytest.raises(CourseError, match=r"holds 0\.0, no tensor"):
        exact(Unroll(lambda lam, draw: 0.0, lambda s, lam, t: s, lambda s, lam, t: s, 1), {"a": 0.0})
    with pytest.raises(CourseError, match="holds a '/'"):
        Particles(torch.tensor(0), {"a/b": TURN}).tensors()
    with pytest.raises(CourseError, match="hold no particles"):
        Particles.of({"weights": TURN})
    with pytest.raises(CourseError, match="positive is 9; of 5 cells"):
        influence_balancing(size=5, positive=9)
    steep = Unroll(lambda lam, _: lam, lambda s, lam, t: s, lambda s, lam, t: s.sqrt(), horizon=1)
    with pytest.raises(CourseError, match="the gradient is not finite at t = 1"):
        Estimator(steep, torch.zeros((), dtype=F64), estimator="truncated", particles=1).outer_loss()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"sigma": float("inf")}, "sigma is inf"),
        ({"sigma": -0.1}, r"sigma is -0\.1"),
        ({"particles": 0}, "particles is 0"),
        ({"particles": -2}, "particles is -2"),
        ({"truncation": -1}, "truncation is -1"),
        ({"clip": 0.0}, r"clip is 0\.0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"clip": float("inf")}, "clip is inf"),
    ],
)
def test_an_estimator_refuses_options_out_of_range(change, words):
    problem = Unroll(lambda lam, draw: draw, lambda s, lam, t: s + lam, lambda s, lam, t: s, 2)
    with pytest.raises(CourseError, match=words):
        Estimator(problem, torch.tensor(0.5), **{"estimator": "pes", "truncation": 1, "particles": 2} | change)


@pytest.mark.parametrize("estimator", ["exact", "truncated"])
def test_a_finite_loss_whose_gradient_is_not_is_an_error(estimator):
    problem = Unroll(lambda lam, draw: draw + 0 * lam, lambda s, lam, t: s, lambda s, lam, t: (0 * lam).abs().sqrt(), 2)
    options = {"truncation": 1} if estimator == "truncated" else {}
    with pytest.raises(CourseError, match="the gradient is not finite at t = "):
        getattr(evolution, estimator)(problem, torch.tensor(0.5), **options)


@pytest.mark.parametrize("kind", ["truncated", "es", "pes"])
def test_names_with_a_dot_and_with_a_dash_are_two_buffers(kind):
    """`a.b` is how PyTorch calls b in a; `a-b` may be a parameter's own name. Values and shapes differ here."""
    lam = {"a.b": torch.tensor([0.5, 0.1], dtype=F64), "a-b": torch.tensor(0.3, dtype=F64)}
    problem = Unroll(
        init=lambda lam, draw: {"s.t": lam["a.b"], "s-t": lam["a-b"]},
        step=lambda s, lam, t: {"s.t": 0.5 * s["s.t"] + lam["a.b"], "s-t": 0.9 * s["s-t"] * lam["a-b"]},
        loss=lambda s, lam, t: s["s.t"].square().sum() + s["s-t"],
        horizon=4,
    )
    learner = Estimator(problem, lam, estimator=kind, truncation=2, particles=4, sigma=0.1)
    options = {"trajectories": 4} if kind == "truncated" else {"sigma": 0.1, "particles": 4}
    at, generators = None, (seeded(1), seeded(1))
    for _ in range(3):
        loss, _ = learner.outer_loss(generator=generators[0])
        value, gradient, at = evolution.WINDOWS[kind](
            problem, lam, at, truncation=2, generator=generators[1], **options
        )
        learner.zero_grad()
        loss.backward()
        assert loss.item() == pytest.approx(value.item(), rel=1e-12)
        found = [p.grad for p in learner.parameters()]
        assert all(map(torch.allclose, found, gradient.values()))
        assert all(map(torch.equal, learner.at().tensors().values(), at.tensors().values()))


def test_an_estimator_takes_no_parts():
    problem, lam = random_problem()
    learner = Estimator(problem, lam, estimator="pes", truncation=2, particles=8, sigma=0.1)
    with pytest.raises(CourseError, match=r"Estimator takes its tasks in one go.*leave accumulate at 1"):
        training.train(learner, Draws(problem.draw), steps=2, tasks=4, accumulate=2, progress=False)


@pytest.mark.parametrize("cut", ["init", "step", "loss"])
def test_a_graph_that_is_cut_is_no_gradient_of_nought(cut):
    def of(name, value):
        return value.detach() if name == cut else value

    problem = Unroll(
        lambda lam, _: of("init", lam), lambda s, lam, t: of("step", s * 2), lambda s, lam, t: of("loss", s * s), 4
    )
    with pytest.raises(CourseError, match="does not hang on λ: something in `init`, `step` or `loss` cut the graph"):
        exact(problem, torch.tensor(2.0, dtype=F64))
