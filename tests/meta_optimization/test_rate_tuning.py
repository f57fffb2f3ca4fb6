"""Many descents at once: each run's estimates are those of `evolution`, costs are counted, and a valley is found."""

import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.meta_optimization import evolution, rate_tuning

F64 = torch.float64


def bowl(horizon=6):
    """Gradient descent with rate e^λ in a bowl with ripples, from a start that is drawn."""
    return evolution.Unroll(
        init=lambda lam, draw: {"phi": draw["phi"], "scale": draw["scale"]},
        step=lambda s, lam, t: s | {"phi": s["phi"] - lam.exp() * (0.1 * s["phi"] + s["scale"] * s["phi"].sin())},
        loss=lambda s, lam, t: (0.05 * s["phi"].square() + 1 - s["phi"].cos()) / horizon,
        horizon=horizon,
        draw=lambda n, generator: {
            "phi": 3 + torch.randn(n, generator=generator, dtype=F64),
            "scale": torch.ones(n, dtype=F64),
        },
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LAM = torch.tensor([-1.0, -0.3, 0.2], dtype=F64)


def alone(draws, run):
    return {name: value[run : run + 1] for name, value in draws.items()}


@pytest.mark.parametrize("length", [2, 6])
def test_backwards_is_the_package_s_estimate_of_each_run(length):
    problem, at = bowl(), None
    draws = problem.draw(3, seeded())
    others = [None] * 3
    for _ in range(problem.horizon // length):
        gradient, at = rate_tuning.backwards(problem, LAM, draws, at, length)
        for run in range(3):
            _, expected, others[run] = evolution.truncated_window(
                problem, LAM[run], others[run], truncation=length, draws=alone(draws, run)
            )
            torch.testing.assert_close(gradient[run], expected, rtol=1e-12, atol=0)
    assert at is None


@pytest.mark.parametrize("length", [2, 6])
def test_perturbed_is_the_package_s_estimate_of_each_run(length):
    problem, at, sigma, pairs = bowl(), None, 0.2, 5
    draws, generator = problem.draw(3, seeded()), seeded(1)
    losses, states = None, [None] * 3
    shift = torch.zeros(pairs, 3, dtype=F64)
    for t in range(0, problem.horizon, length):
        noise = sigma * torch.randn(pairs, 3, generator=generator, dtype=F64)
        gradient, at = rate_tuning.perturbed(problem, LAM, draws, at, length, noise, sigma)
        shift = shift + noise
        for run in range(3):  # the pieces of the package, one run at a time
            lams = evolution.both_sides(LAM[run], noise[:, run])
            if t == 0:
                one = {name: value.expand(2 * pairs) for name, value in alone(draws, run).items()}
                states[run] = evolution.start(problem, lams, one, each=True)
            losses, states[run] = evolution.advance(problem, lams, states[run], t, length, each=True)
            expected = evolution.slope(shift[:, run], losses, sigma)
            torch.testing.assert_close(gradient[run], expected, rtol=1e-11, atol=1e-14)
    assert at is None


def test_over_the_whole_horizon_many_pairs_reach_the_exact_slope():
    problem = bowl()
    draws, pairs, sigma = problem.draw(3, seeded()), 40_000, 0.02
    noise = sigma * torch.randn(pairs, 3, generator=seeded(2), dtype=F64)
    exact, _ = rate_tuning.backwards(problem, LAM, draws, None, 6)
    got, _ = rate_tuning.perturbed(problem, LAM, draws, None, 6, noise, sigma)
    torch.testing.assert_close(got, exact, rtol=0.03, atol=0)


def _loss(problem, lam, draws):
    return evolution.advance(problem, lam, evolution.start(problem, lam, draws, each=True), 0, 20, each=True)[0]


def test_descents_spend_their_budget_and_find_the_valley():
    problem = bowl(20)
    draws = problem.draw(3, seeded())
    begin = torch.full((3,), -3.0, dtype=F64)
    for way, cost in (("exact", 60), ("truncated", 15), ("ES", 160), ("PES", 40)):
        used, path = rate_tuning.descend(
            problem, begin, draws, way, budget=6400, truncation=5, pairs=4, generator=seeded()
        )
        assert used == [cost * k for k in range(6400 // cost + 1)]
        assert path.shape == (len(used), 3)
        assert torch.equal(path[0], begin)
        losses = [_loss(problem, path[k], draws) for k in (0, -1)]
        assert (losses[1] < losses[0]).all(), way


def test_a_run_does_not_depend_on_its_neighbours():
    problem = bowl(6)
    draws = problem.draw(3, seeded())
    options = {"budget": 400, "truncation": 2}
    together = rate_tuning.descend(problem, LAM, draws, "truncated", **options)[1]
    single = rate_tuning.descend(problem, LAM[1:2], alone(draws, 1), "truncated", **options)[1]
    torch.testing.assert_close(together[:, 1:2], single, rtol=1e-12, atol=0)


def test_errors_name_the_value_and_the_remedy():
    problem = bowl(6)
    draws = problem.draw(3, seeded())
    with pytest.raises(CourseError, match="way 'cma' is unknown; use one of exact, truncated, ES, PES"):
        rate_tuning.descend(problem, LAM, draws, "cma", budget=100, truncation=2)
    with pytest.raises(CourseError, match="budget is 10, and one update of exact costs 18 unroll steps"):
        rate_tuning.descend(problem, LAM, draws, "exact", budget=10, truncation=2)
    with pytest.raises(CourseError, match="truncation 4 does not divide the horizon 6"):
        rate_tuning.descend(problem, LAM, draws, "PES", budget=100, truncation=4)


def test_estimates_are_independent_and_have_the_package_s_mean():
    problem, lam, sigma = bowl(), LAM[1], 0.02
    whole = evolution.exact(problem, lam, trajectories=20_000, generator=seeded(3))[1]
    cut = evolution.truncated(problem, lam, truncation=2, trajectories=20_000, generator=seeded(3))[1]
    assert abs(cut - whole) > 0.05 * abs(whole)  # or the test could not tell them apart
    for way, expected in (("exact", whole), ("truncated", cut), ("ES", whole), ("PES", whole)):
        got = rate_tuning.estimates(problem, lam, way, 20_000, truncation=2, pairs=2, sigma=sigma, generator=seeded(4))
        assert got.shape == (20_000,)
        error = got.std() / len(got) ** 0.5
        assert len(got.unique()) == len(got)
        assert abs(got.mean() - expected) < 6 * error + 0.01 * abs(expected), way


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"truncation": 0}, "truncation is 0"),
        ({"truncation": -2}, "truncation is -2"),
        ({"pairs": 0}, "pairs is 0"),
        ({"pairs": -1}, "pairs is -1"),
        ({"sigma": 0.0}, r"sigma is 0\.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"rate": -0.1}, r"rate is -0\.1"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"clip": -1.0}, r"clip is -1\.0"),
        ({"budget": -5}, "budget is -5"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": float("inf")}, "budget is inf"),
        ({"generator": None}, "PES needs a generator"),
    ],
)
def test_options_out_of_range_are_refused_before_work_is_done(change, words):
    def never(*args):
        raise AssertionError("the system was asked")

    problem = evolution.Unroll(never, never, never, 6)
    options = {"budget": 100, "truncation": 2, "generator": seeded()} | change
    with pytest.raises(CourseError, match=words):
        rate_tuning.descend(problem, LAM, torch.zeros(3), "PES", **options)
    if not {"rate", "clip", "budget"} & set(change):
        options = {name: value for name, value in options.items() if name != "budget"}
        with pytest.raises(CourseError, match=words):
            rate_tuning.estimates(problem, LAM[0], "PES", 2, **options)
    with pytest.raises(CourseError, match="count is 0"):
        rate_tuning.estimates(problem, LAM[0], "exact", 0, truncation=2, generator=seeded())


def test_a_gradient_that_is_nan_stops_and_an_infinite_one_is_clipped():
    def steep(rise):
        return evolution.Unroll(
            init=lambda lam, draw: draw,
            step=lambda s, lam, t: s + 0 * lam,
            loss=lambda s, lam, t: rise(lam),
            horizon=2,
            draw=lambda n, generator: torch.zeros(n, dtype=F64),
        )

    options = {"budget": 12, "truncation": 1}
    lam, draws = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64)
    with pytest.raises(CourseError, match="the gradient of 2 runs by exact is nan"):
        rate_tuning.descend(steep(lambda lam: (0 * lam).abs().sqrt()), lam, draws, "exact", **options)
    path = rate_tuning.descend(steep(lambda lam: lam.sqrt()), lam, draws, "exact", **options | {"budget": 6})[1]
    torch.testing.assert_close(path[-1], torch.full((2,), -0.1, dtype=F64))  # Adam's first step, by the rate
