"""The checks of notebook 11 against right answers written differently, and against mistakes that learners make."""

import math

import pytest
import torch
from check_helpers import SEEDS, assert_check

from mlcourse.lessons.chaos import checks, unroll_examples
from mlcourse.meta_optimization import evolution

F64 = torch.float64


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 11.1 evolution strategies


def es_loop(losses, lam, noise, sigma):
    total = torch.zeros_like(lam)
    for eps in noise:
        plus, minus = losses(torch.stack([lam + eps, lam - eps]))
        total = total + eps * (plus - minus) / (2 * sigma**2)
    return total / len(noise)


def es_with_the_package(losses, lam, noise, sigma):
    return evolution.slope(noise, losses(evolution.both_sides(lam, noise)), sigma)


def es_float32(losses, lam, noise, sigma):
    return es_loop(losses, lam.float(), noise.float(), sigma)


def es_half_missing(losses, lam, noise, sigma):
    return 2 * es_loop(losses, lam, noise, sigma)


def es_one_sigma(losses, lam, noise, sigma):
    return sigma * es_loop(losses, lam, noise, sigma)


def es_no_factor(losses, lam, noise, sigma):
    return 2 * sigma**2 * es_loop(losses, lam, noise, sigma)


def es_sum(losses, lam, noise, sigma):
    return len(noise) * es_loop(losses, lam, noise, sigma)


def es_over_particles(losses, lam, noise, sigma):
    return es_loop(losses, lam, noise, sigma) / 2


def es_one_sided(losses, lam, noise, sigma):
    return losses(lam + noise) @ noise / len(noise) / sigma**2


def es_added(losses, lam, noise, sigma):
    return (losses(lam + noise) + losses(lam - noise)) @ noise / len(noise) / (2 * sigma**2)


def es_scaled_twice(losses, lam, noise, sigma):
    return (losses(lam + sigma * noise) - losses(lam - sigma * noise)) @ noise / len(noise) / (2 * sigma)


def es_number(losses, lam, noise, sigma):
    return ((losses(lam + noise) - losses(lam - noise)) / (2 * sigma**2)).mean()


def es_one_row(losses, lam, noise, sigma):
    return losses(lam + noise[0]) * noise[0]


def test_es_gradient():
    check = checks.es_gradient
    check_more = {
        "no half": (es_half_missing, "Twice too large"),
        "one σ": (es_one_sigma, "Divided by 2σ"),
        "no factor": (es_no_factor, "is missing"),
        "added": (es_added, "are added"),
        "one-sided": (es_one_sided, "Only λ + ε is used"),
        "scaled twice": (es_scaled_twice, "scaled twice"),
        "one λ, not a row": (es_one_row, "takes one λ a row"),
    }
    check_more["float32"] = (es_float32, "keep the number format")
    assert_check(check, right=[es_loop, es_with_the_package], wrong=check_more)


def test_es_mistakes_that_need_more_than_one_pair():
    for answer, part in (
        (es_sum, "sum over the pairs"),
        (es_over_particles, "Half too small"),
        (es_number, "shape"),
    ):
        for seed in SEEDS:
            assert part in checks.es_gradient.run(answer, seed=seed).diagnosis

    def climbs(losses, lam, noise, sigma):
        return -es_loop(losses, lam, noise, sigma)

    assert "Sign" in checks.es_gradient.run(climbs).diagnosis


# ------------------------------------------------------------------ 11.2 one window of PES


def pes_loop(window, lam, states, shift, noise, sigma):
    pairs = len(noise)
    losses, states = window(torch.stack([lam + e for e in noise] + [lam - e for e in noise]), states)
    shift = torch.stack([old + new for old, new in zip(shift, noise, strict=True)])
    parts = [shift[k] * (losses[k] - losses[k + pairs]) / (2 * sigma**2) for k in range(pairs)]
    return sum(parts) / pairs, states, shift


def pes_with_the_package(window, lam, states, shift, noise, sigma):
    losses, states = window(evolution.both_sides(lam, noise), states)
    return evolution.slope(shift + noise, losses, sigma), states, shift + noise


def pes_float32(window, lam, states, shift, noise, sigma):
    return pes_loop(window, lam.float(), states.float(), shift.float(), noise.float(), sigma)


def pes_weighted(weight, keep=None):
    def pes_with_a_mistake(window, lam, states, shift, noise, sigma):
        losses, states = window(torch.cat([lam + noise, lam - noise]), states)
        plus, minus = losses.chunk(2)
        gradient = (plus - minus) @ weight(shift, noise) / (2 * sigma**2 * len(noise))
        return gradient, states, (keep or torch.add)(shift, noise)

    return pes_with_a_mistake


def pes_moves_by_the_sum(window, lam, states, shift, noise, sigma):
    shift = shift + noise
    losses, states = window(torch.cat([lam + shift, lam - shift]), states)
    plus, minus = losses.chunk(2)
    return (plus - minus) @ shift / (2 * sigma**2 * len(noise)), states, shift


def pes_stands_still(window, lam, states, shift, noise, sigma):
    gradient, _, shift = pes_loop(window, lam, states, shift, noise, sigma)
    return gradient, states, shift


def pes_twice(window, lam, states, shift, noise, sigma):
    gradient, states, shift = pes_loop(window, lam, states, shift, noise, sigma)
    return 2 * gradient, states, shift


def pes_sum(window, lam, states, shift, noise, sigma):
    gradient, states, shift = pes_loop(window, lam, states, shift, noise, sigma)
    return len(noise) * 3 * gradient, states, shift


def pes_unmirrored(window, lam, states, shift, noise, sigma):
    losses, states = window(torch.cat([lam + noise, lam + noise]), states)
    return losses[: len(noise)] @ (shift + noise) / len(noise) / sigma**2, states, shift + noise


def pes_gradient_only(window, lam, states, shift, noise, sigma):
    return pes_loop(window, lam, states, shift, noise, sigma)[0]


def test_pes_window():
    def of_shift(shift, noise):
        return shift

    def of_noise(shift, noise):
        return noise

    assert_check(
        checks.pes_window,
        right=[pes_loop, pes_with_the_package],
        wrong={
            "float32": (pes_float32, "keep the number format"),
            "accumulates after": (pes_weighted(of_shift), "grows too late"),
            "current ε only": (pes_weighted(of_noise), "with this window's ε alone: that"),
            "current ε only, resets": (pes_weighted(of_noise, of_noise), "never summed up"),
            "returns the noise": (pes_weighted(torch.add, of_noise), "first perturbation is forgotten"),
            "moves by ξ": (pes_moves_by_the_sum, "moved by the whole shift"),
            "old states": (pes_stands_still, "states are the old ones"),
            "no half": (pes_twice, "Twice too large"),
            "not mirrored": (pes_unmirrored, "are not where they should be"),
            "one result": (pes_gradient_only, "three results"),
        },
    )


def test_pes_sum_and_sign():
    assert "off by" in checks.pes_window.run(pes_sum).diagnosis

    def other(factor):
        def answer(window, lam, states, shift, noise, sigma):
            gradient, states, shift = pes_loop(window, lam, states, shift, noise, sigma)
            return factor(noise) * gradient, states, shift

        return answer

    assert "sum over the pairs" in checks.pes_window.run(other(len)).diagnosis
    assert "Sign" in checks.pes_window.run(other(lambda noise: -1)).diagnosis
    assert "Half too small" in checks.pes_window.run(other(lambda noise: 0.5)).diagnosis


def test_the_reference_is_the_package_s_window_and_signs_give_two_steps_by_hand():
    """ε = ±σ in all combinations has the moments that λ + λ² needs: PES is exact, truncated ES misses λ."""
    problem, lam, sigma = unroll_examples.two_steps(), torch.tensor([0.7], dtype=F64), 0.3
    signs = sigma * torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1]], dtype=F64)[:, :, None]

    def total(weigh):
        states, shift, found = torch.ones(8, dtype=F64), torch.zeros(4, 1, dtype=F64), 0.0
        for t, noise in enumerate(signs):

            def window(lams, states, t=t):
                return evolution.advance(problem, lams[:, 0], states, t, 1, each=True)

            gradient, states, shift = weigh(window, lam, states, shift, noise, sigma)
            found = found + gradient
        return found.item()

    assert total(checks.pes_window.reference) == pytest.approx(1 + 2 * 0.7, rel=1e-12)
    # an unbiased weight of ε alone: here each particle keeps its own state, and λ is missing all the same
    assert total(pes_weighted(lambda shift, noise: noise)) == pytest.approx(1 + 0.7, rel=1e-12)


# ------------------------------------------------------------------ 11.3 bias in standard errors


def report_plain(estimates, truth):
    numbers, count = estimates.tolist(), len(estimates)
    mean = sum(numbers) / count
    error = math.sqrt(sum((x - mean) ** 2 for x in numbers) / (count - 1) / count)
    return mean - float(truth), error, (mean - float(truth)) / error


def report_float32(estimates, truth):
    variance, mean = torch.var_mean(estimates.float())
    error = (variance / len(estimates)).sqrt()
    return mean - truth.float(), error, (mean - truth.float()) / error


def report_with(change):
    def answer(estimates, truth):
        return change(estimates, truth, *report_plain(estimates, truth))

    return answer


def test_report():
    assert_check(
        checks.report,
        right=[report_plain, report_float32],
        wrong={
            "the mean": (report_with(lambda x, t, b, e, z: (x.mean(), e, z)), "This is the mean itself"),
            "sign": (report_with(lambda x, t, b, e, z: (-b, e, -z)), "Sign: the bias"),
            "spread of one": (report_with(lambda x, t, b, e, z: (b, e * len(x) ** 0.5, z)), "of one estimate. That"),
            "divides by R": (report_with(lambda x, t, b, e, z: (b, x.std(correction=0) / len(x) ** 0.5, z)), "R − 1"),
            "no root": (report_with(lambda x, t, b, e, z: (b, e**2, z)), "variance of the mean"),
            "over R": (report_with(lambda x, t, b, e, z: (b, e / len(x) ** 0.5, z)), "Divided by R"),
            "ratio of spread": (report_with(lambda x, t, b, e, z: (b, e, b / x.std())), "by the spread of one"),
            "upside down": (report_with(lambda x, t, b, e, z: (b, e, e / b)), "Upside down"),
            "one number": (report_with(lambda x, t, b, e, z: b), "three numbers"),
        },
    )
    for change, part in (
        (lambda x, t, b, e, z: (b, e, 2 * z), "bias over standard error"),
        (lambda x, t, b, e, z: (b + 1, e, z), "The bias is wrong"),
        (lambda x, t, b, e, z: (b, 3.3 * e, z), "The standard error is wrong"),
    ):
        assert part in checks.report.run(report_with(change)).diagnosis


# ------------------------------------------------------------------ 11.4 the variance of ES


def variance_by_components(slope, tau, sigma, pairs):
    """Component i: (‖g‖² + g_i²) of the tilt, and τ²/(2σ²) of the noise."""
    total = 0.0
    for one in slope.tolist():
        total += float(slope @ slope) + one**2 + tau**2 / (2 * sigma**2)
    return total / pairs


def variance_float32(slope, tau, sigma, pairs):
    slope = slope.float()
    return ((len(slope) + 1) * slope @ slope + len(slope) * (tau / sigma) ** 2 / 2) / pairs


def variance_with(tilt, noise=1.0, over=1.0):
    def answer(slope, tau, sigma, pairs):
        n = len(slope)
        parts = tilt(n, sigma) * slope.square().sum() + noise * n * tau**2 / (2 * sigma**2)
        return parts / (over * pairs)

    return answer


def variance_of_one_pair(slope, tau, sigma, pairs):
    return pairs * variance_by_components(slope, tau, sigma, pairs)


def variance_vector(slope, tau, sigma, pairs):
    return (slope.square().sum() + slope**2 + tau**2 / (2 * sigma**2)) / pairs


def test_es_variance():
    assert_check(
        checks.es_variance,
        right=[variance_by_components, variance_float32],
        wrong={
            "one pair": (variance_of_one_pair, "variance of one pair"),
            "particles": (variance_with(lambda n, s: n + 1, over=2.0), "not by that of the particles"),
            "mean square": (variance_with(lambda n, s: n + 2), "n + 1, not n + 2"),
            "n": (variance_with(lambda n, s: n), "n‖g‖² instead"),
            "σ in the tilt": (variance_with(lambda n, s: (n + 1) * s**2), "For a plane it cancels"),
            "no noise": (variance_with(lambda n, s: n + 1, noise=0.0), "noise is left out"),
            "noise twice": (variance_with(lambda n, s: n + 1, noise=2.0), "noise counts twice"),
            "vector": (variance_vector, "shape"),
        },
    )


def test_the_formula_of_the_variance_is_what_one_measures():
    generator = torch.Generator().manual_seed(0)
    slope, tau, sigma, pairs = torch.tensor([1.0, -2.0, 0.5], dtype=F64), 0.4, 0.3, 2
    repeats = 40_000
    noise = sigma * torch.randn(repeats, pairs, 3, generator=generator, dtype=F64)
    shake = tau * torch.randn(repeats, pairs, 2, generator=generator, dtype=F64)
    rise = (2 * noise @ slope + shake[..., 0] - shake[..., 1]) / (2 * sigma**2)
    measured = (rise[..., None] * noise).mean(1).var(0).sum().item()
    assert measured == pytest.approx(checks.es_variance.reference(slope, tau, sigma, pairs).item(), rel=0.03)


# ------------------------------------------------------------------ 11.5 choose an estimator


def choose_loop(bias, spread, cost, memory, budget, limit):
    best, least = None, math.inf
    for row in range(len(bias)):
        calls = budget / float(cost[row])
        error = float(bias[row]) ** 2 + float(spread[row]) ** 2 / calls
        if int(memory[row]) <= limit and error < least:
            best, least = row, error
    return best


def choose_sorted(bias, spread, cost, memory, budget, limit):
    error = (bias.float().square() + spread.float().square() * cost.float() / budget).sqrt()
    order = error.argsort()
    return order[memory[order] <= limit][0]


def choose_by(error, pick=torch.argmin):
    def answer(bias, spread, cost, memory, budget, limit):
        found = error(bias, spread, budget / cost)
        return pick(found.masked_fill(memory > limit, -math.inf if pick is torch.argmax else math.inf))

    return answer


def choose_without_a_limit(bias, spread, cost, memory, budget, limit):
    return choose_loop(bias, spread, cost, memory, budget, math.inf)


def choose_in_a_shortened_list(bias, spread, cost, memory, budget, limit):
    return (bias**2 + spread**2 * cost / budget)[memory <= limit].argmin()


def choose_error(bias, spread, cost, memory, budget, limit):
    return bias**2 + spread**2 * cost / budget


def choose_number(bias, spread, cost, memory, budget, limit):
    return (bias**2 + spread**2 * cost / budget).min()


def test_choose():
    assert_check(
        checks.choose,
        right=[choose_loop, choose_sorted],
        wrong={
            "no limit": (choose_without_a_limit, "limit of memory is ignored"),
            "shortened list": (choose_in_a_shortened_list, "places in the shortened list"),
            "spread alone": (choose_by(lambda b, s, n: s**2 / n), "Only the spread counts"),
            "bias alone": (choose_by(lambda b, s, n: b.abs()), "Only the bias counts"),
            "single estimates": (choose_by(lambda b, s, n: b**2 + s**2), "compares single estimates"),
            "bias averaged": (choose_by(lambda b, s, n: (b**2 + s**2) / n), "bias is averaged away"),
            "signed bias": (choose_by(lambda b, s, n: b + s / n**0.5), "negative bias counts as good"),
            "n squared": (choose_by(lambda b, s, n: b**2 + (s / n) ** 2), "n divides the variance"),
            "upside down": (choose_by(lambda b, s, n: b**2 + s**2 * n), "Upside down"),
            "the largest": (choose_by(lambda b, s, n: b**2 + s**2 / n, torch.argmax), "the largest error"),
            "all errors": (choose_error, "got a tensor of shape"),
            "the error itself": (choose_number, "number of one estimator, a whole number from 0 to 4, not"),
        },
    )
    assert "of 120 choices are not" in checks.choose.run(lambda *table: 2).diagnosis


def test_the_references_pass_for_many_seeds():
    for check in (checks.es_gradient, checks.pes_window, checks.report, checks.es_variance, checks.choose):
        for seed in range(5, 25):
            assert check.run(check.reference, seed=seed).passed


def test_a_number_that_is_no_place_in_a_list_is_refused():
    def my_choice(*parts):
        return float(checks.choose.reference(*parts))

    assert "a whole number from 0 to 4" in checks.choose.run(my_choice).diagnosis
    assert checks.choose.run(lambda *parts: torch.tensor(checks.choose.reference(*parts))).passed


def test_a_window_may_be_called_once_for_each_half():
    def my_window(window, lam, states, shift, noise, sigma):
        shift = shift + noise
        plus, first = window(lam + noise, states[: len(noise)])
        minus, second = window(lam - noise, states[len(noise) :])
        return (plus - minus) @ shift / (2 * sigma**2 * len(shift)), torch.cat([first, second]), shift

    assert checks.pes_window.run(my_window).passed


def test_the_sum_over_pairs_is_not_called_twice_too_large():
    def my_window(window, lam, states, shift, noise, sigma):
        gradient, states, shift = checks.pes_window.reference(window, lam, states, shift, noise, sigma)
        return len(shift) * gradient, states, shift

    assert "the sum over the pairs" in checks.pes_window.run(my_window).diagnosis


def test_the_absolute_value_of_a_bias_is_found_in_every_call():
    def my_report(estimates, truth):
        bias, error, off = checks.report.reference(estimates, truth)
        return bias.abs(), error, off.abs()

    for seed in range(50):
        assert "do not take the absolute value" in checks.report.run(my_report, seed=seed).diagnosis


@pytest.mark.parametrize("rounded", [math.floor, round, math.ceil])
def test_a_number_of_estimates_that_is_rounded_is_found(rounded):
    def my_choice(bias, spread, cost, memory, budget, limit):
        n = torch.tensor([rounded(budget / one) for one in cost.tolist()])
        return int(torch.where(memory <= limit, bias**2 + spread**2 / n, torch.inf).argmin())

    for seed in range(5):
        assert not checks.choose.run(my_choice, seed=seed).passed
