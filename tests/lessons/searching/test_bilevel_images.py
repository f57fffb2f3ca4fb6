"""The bilevel problems of notebook 09: parts that share no image, hypergradients against differences, the measures."""

import math

import pytest
import torch

from mlcourse import datasets, statistics
from mlcourse.errors import CourseError
from mlcourse.lessons.searching import bilevel_images
from mlcourse.meta_gradients import hypergradients
from mlcourse.teaching.oracles import directional_derivative, gradient_error

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def split():
    return bilevel_images.draw(datasets.load("glyphs", "val"), generator(1), way=4, train=3, val=2, test=2, size=7)


def test_a_split_has_its_parts_and_no_image_twice(split):
    sizes = {"train": 3, "val": 2, "test": 2}
    images = []
    for part, each in sizes.items():
        x, y = getattr(split, f"{part}_x"), getattr(split, f"{part}_y")
        assert x.shape == (4 * each, 1, 7, 7)
        assert x.dtype == F64
        assert y.bincount().tolist() == [each] * 4
        images.append(x)
    together = torch.cat(images).flatten(1)
    assert len(together.unique(dim=0)) == len(together)
    again = bilevel_images.draw(datasets.load("glyphs", "val"), generator(1), way=4, train=3, val=2, test=2, size=7)
    assert torch.equal(again.train_x, split.train_x)


def test_labels_are_spoilt_as_often_as_asked():
    labels = torch.arange(5).repeat(40)
    spoilt, wrong = bilevel_images.spoil(labels, 0.4, 5, generator())
    assert wrong.sum() == 80
    assert torch.equal(wrong, spoilt != labels)
    assert spoilt.min() >= 0
    assert spoilt.max() < 5
    assert not bilevel_images.spoil(labels, 0.0, 5, generator())[1].any()
    with pytest.raises(CourseError, match=r"share is 1.5"):
        bilevel_images.spoil(labels, 1.5, 5, generator())


def test_images_move_by_whole_pixels_exactly_and_by_halves_smoothly():
    images = torch.zeros(2, 1, 6, 6, dtype=F64)
    images[:, 0, 2, 3] = 1
    there = bilevel_images.moved(images, torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=F64))
    assert there[0, 0, 2, 4] == pytest.approx(1)
    assert there[1, 0, 0, 3] == pytest.approx(1)
    half = bilevel_images.moved(images[:1], torch.tensor([[0.5, 0.0]], dtype=F64))
    assert half[0, 0, 2, 3] == pytest.approx(0.5)
    assert half[0, 0, 2, 4] == pytest.approx(0.5)
    torch.testing.assert_close(bilevel_images.moved(images, torch.zeros(2, 2, dtype=F64)), images)


def test_hypergradients_of_three_knobs(split):
    problem = bilevel_images.three_knobs(split, generator(2))
    lam = {
        name: torch.tensor(math.log(v), dtype=F64) for name, v in {"rate": 2.0, "decay": 0.02, "jitter": 0.4}.items()
    }
    value, gradient = hypergradients.unrolled(problem, None, lam, steps=5, rate=1.0)

    def trained(name, change):
        phi = bilevel_images.solve(problem, lam | {name: lam[name] + change}, steps=5, rate=1.0)
        return problem.outer_loss(phi, lam)

    assert value == trained("rate", 0.0)
    for name in lam:
        one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
        slope = directional_derivative(lambda change, name=name: trained(name, change), zero, one, h=1e-4)
        assert abs(slope) > 1e-5, name
        # a jittered image has kinks where a pixel passes another; here none is met
        assert gradient[name].item() == pytest.approx(slope, rel=1e-6), name


def test_the_rate_in_front_of_the_loss_is_the_rate_of_the_step(split):
    problem = bilevel_images.three_knobs(split, generator(2))
    lam = {
        name: torch.tensor(math.log(v), dtype=F64) for name, v in {"rate": 0.5, "decay": 0.02, "jitter": 0.4}.items()
    }
    outside = bilevel_images.solve(problem, lam | {"rate": torch.zeros((), dtype=F64)}, steps=4, rate=0.5)
    torch.testing.assert_close(bilevel_images.solve(problem, lam, steps=4, rate=1.0), outside)
    # and an implicit gradient does not see it: it does not move the optimum
    near = bilevel_images.solve(problem, lam, steps=1000, rate=2.0)
    _, implicit = hypergradients.implicit_cg(problem, near, lam, iterations=200)
    assert abs(implicit["rate"]) < 1e-3 * abs(implicit["decay"])


def test_hypergradients_of_example_weights(split):
    train, val = split.train_x.flatten(1), split.val_x.flatten(1)
    problem = bilevel_images.weighted_examples(train, split.train_y, val, split.val_y, way=4)
    lam = torch.randn(len(train), generator=generator(3), dtype=F64)
    _, gradient = hypergradients.unrolled(problem, None, lam, steps=6, rate=0.5)

    def trained(lam):
        return problem.outer_loss(bilevel_images.solve(problem, lam, steps=6, rate=0.5), lam)

    assert gradient_error(trained, lam, gradient, generator(4)) < 1e-8
    plain = bilevel_images.weighted_examples(train, split.train_y, val, split.val_y, way=4, decay=0.0)
    phi = torch.randn(49, 4, generator=generator(5), dtype=F64)
    ordinary = torch.nn.functional.cross_entropy(train @ phi, split.train_y)
    torch.testing.assert_close(plain.inner_loss(phi, torch.zeros(len(train), dtype=F64)), ordinary)


def test_fewer_validation_images_are_the_first_of_each_class(split):
    one = bilevel_images.fewer(split, 1)
    assert one.val_y.bincount().tolist() == [1] * 4
    for x, y in zip(one.val_x, one.val_y):
        assert torch.equal(x, split.val_x[split.val_y == y][0])
    for part in ("train_x", "train_y", "test_x", "test_y"):
        assert getattr(one, part) is getattr(split, part)
    assert torch.equal(bilevel_images.fewer(split, 2).val_x, split.val_x)
    for wrong in (0, 3):
        with pytest.raises(CourseError, match=f"val is {wrong}, but each class has 2"):
            bilevel_images.fewer(split, wrong)


def test_area_under_the_roc_curve():
    scores, positive = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert bilevel_images.auc(scores, positive) == 0.75
    assert bilevel_images.auc(-scores, positive) == 0.25
    assert bilevel_images.auc(torch.zeros(4), positive) == 0.5
    with pytest.raises(CourseError, match="only one here"):
        bilevel_images.auc(scores, torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(("n", "quantile"), [(5, 2.776445), (8, 2.364624), (12, 2.200985), (30, 2.045230)])
def test_student_interval_has_the_quantiles_of_tables(n, quantile):
    values = torch.randn(n, generator=generator(n), dtype=F64)
    mean, half = statistics.student_interval(values)
    assert mean == pytest.approx(values.mean().item())
    assert half == pytest.approx(quantile * values.std().item() / n**0.5, rel=0.01)
    assert math.isnan(statistics.student_interval(torch.ones(1))[1])


def test_accuracy():
    phi, x = torch.eye(2, dtype=F64), torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]], dtype=F64)
    assert bilevel_images.accuracy(phi, x, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_scores_without_an_order_are_refused(wrong):
    phi, x, y = torch.eye(2, dtype=F64), torch.tensor([[2.0, 1.0], [wrong, 1.0]], dtype=F64), torch.tensor([0, 1])
    for ask in (lambda: bilevel_images.accuracy(phi, x, y), lambda: bilevel_images.auc(x[:, 0], y.bool())):
        with pytest.raises(CourseError, match="a score is not finite"):
            ask()
