"""The checks of notebook 02 against right answers written differently, and against mistakes that learners make."""

import math

import pytest
import torch
from check_helpers import SEEDS, assert_check
from torch import nn
from torch.nn import functional as F

from mlcourse.lessons.episodes import checks


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 02.1 the listing's network


def convolutions(channels):
    return [
        nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ]  # fmt: skip


def head(inputs, classes):
    return [nn.Linear(inputs, 1024), nn.ReLU(), nn.Linear(1024, classes)]


class Reorder(nn.Module):
    """Flattens in a way of its own."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


def network_from_a_trial_image(channels, size, classes):
    front = nn.Sequential(*convolutions(channels), nn.Flatten())
    with torch.no_grad():
        inputs = front(torch.zeros(1, channels, size, size)).shape[1]
    return nn.Sequential(front, *head(inputs, classes))


def network_in_two_blocks(channels, size, classes):
    body = nn.Sequential(*convolutions(channels), nn.Flatten(), nn.Linear(128 * (size // 4) ** 2, 1024), nn.ReLU())
    return nn.Sequential(body.float(), nn.Linear(1024, classes))


def network_with_view(channels, size, classes):
    """The listing's own mistake: one pool, and rows of 8192 whatever the images are."""
    layers = convolutions(channels)[:2] + convolutions(channels)[3:]
    return nn.Sequential(*layers, Reorder(lambda x: x.reshape(-1, 128 * 8 * 8)), *head(128 * 8 * 8, classes))


def network_that_mixes(channels, size, classes):
    mix = Reorder(lambda x: x.permute(1, 2, 3, 0).reshape(len(x), -1))
    return nn.Sequential(*convolutions(channels), mix, *head(128 * (size // 4) ** 2, classes))


def network_with_softmax(channels, size, classes):
    front, last = network_in_two_blocks(channels, size, classes)

    class Head(nn.Linear):
        def forward(self, x):
            return super().forward(x).softmax(1)

    return nn.Sequential(front, Head(1024, last.out_features))


def network_with_relu(channels, size, classes):
    class Head(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    return nn.Sequential(network_in_two_blocks(channels, size, classes)[0], Head(1024, classes))


def network_with_softmax_layer(channels, size, classes):
    return nn.Sequential(*network_in_two_blocks(channels, size, classes), nn.Softmax(1))


def network_without_relu(*which):
    """The right layers without the ReLU number 0, 1, 2."""

    def answer(channels, size, classes):
        layers = [*convolutions(channels), nn.Flatten(), *head(128 * (size // 4) ** 2, classes)]
        places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
        return nn.Sequential(*(layer for place, layer in enumerate(layers) if place not in [places[k] for k in which]))

    return answer


def network_with_one_relu_used_thrice(channels, size, classes):
    bend = nn.ReLU()
    layers = [*convolutions(channels), nn.Flatten(), *head(128 * (size // 4) ** 2, classes)]
    return nn.Sequential(*(bend if isinstance(layer, nn.ReLU) else layer for layer in layers))


def network_in_colour_only(channels, size, classes):
    return network_in_two_blocks(3, size, classes)


def network_flat_from_the_batch(channels, size, classes):
    return nn.Sequential(*convolutions(channels), nn.Flatten(0), *head(128 * (size // 4) ** 2, classes))


def network_pooled_once_too_small(channels, size, classes):
    layers = convolutions(channels)[:2] + convolutions(channels)[3:]
    return nn.Sequential(*layers, nn.Flatten(), *head(128 * (size // 4) ** 2, classes))


def network_for_32_only(channels, size, classes):
    return nn.Sequential(*convolutions(channels), nn.Flatten(), *head(128 * 8 * 8, classes))


def network_of_one_logit(channels, size, classes):
    return network_in_two_blocks(channels, size, 1)


def network_pooled_once(channels, size, classes):
    layers = convolutions(channels)[:2] + convolutions(channels)[3:]
    return nn.Sequential(*layers, nn.Flatten(), *head(128 * (size // 2) ** 2, classes))


def network_too_narrow(channels, size, classes):
    layers = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *head(32 * (size // 4) ** 2, classes))


def network_cut_off(channels, size, classes):
    layers = [*convolutions(channels), Reorder(lambda x: x.detach()), nn.Flatten()]
    return nn.Sequential(*layers, *head(128 * (size // 4) ** 2, classes))


def network_as_function(channels, size, classes):
    return network_in_two_blocks(channels, size, classes).forward


def test_inner_network():
    assert_check(
        checks.inner_network,
        right=[network_from_a_trial_image, network_in_two_blocks, network_with_one_relu_used_thrice],
        wrong={
            "the listing's view": (network_with_view, "8 images became 2 rows"),
            "mixes images": (network_that_mixes, "changes with its neighbours"),
            "softmax": (network_with_softmax, "there is a softmax"),
            "softmax layer": (network_with_softmax_layer, "its last layer is Softmax"),
            "no first relu": (network_without_relu(0), "Into 1 of its layers go negative numbers"),
            "no relu": (network_without_relu(0, 1, 2), "Into 3 of its layers go negative numbers"),
            "channels": (network_in_colour_only, "takes 3 channels, but the images have 1"),
            "relu": (network_with_relu, "bends the logits after the head"),
            "32 only": (network_for_32_only, "cannot take images of 3×8×8"),
            "one logit": (network_of_one_logit, "The head gives 1 numbers"),
            "one pool": (network_pooled_once, "pools once"),
            "narrow": (network_too_narrow, "the listing's layers"),
            "cut": (network_cut_off, "get no gradient"),
            "a function": (network_as_function, "nn.Sequential whose last layer"),
        },
    )
    for without in ((1,), (2,)):
        assert "a ReLU is missing" in checks.inner_network.run(network_without_relu(*without)).diagnosis
    for flat in (network_flat_from_the_batch, network_pooled_once_too_small):
        diagnosis = checks.inner_network.run(flat).diagnosis
        assert "The images must stand first" in diagnosis
        assert "after two poolings" in diagnosis


# ------------------------------------------------------------------ 02.2 what moved?


def moved_with_loop(module, train):
    old = [(name, value.detach().numpy().copy()) for name, value in module.named_parameters()]
    train()
    new = dict(module.named_parameters())
    return [name for name, value in old if (new[name].detach().numpy() != value).any()]


def moved_by_distance(module, train):
    old = {name: value.detach().clone() for name, value in module.named_parameters()}
    train()
    return {name for name, value in module.named_parameters() if (value - old[name]).abs().max() > 0}


def moved_without_copy(module, train):
    old = dict(module.named_parameters())
    train()
    return {name for name, value in module.named_parameters() if not torch.equal(value, old[name])}


def moved_by_gradient(module, train):
    train()
    return {name for name, value in module.named_parameters() if value.grad is not None and value.grad.any()}


def moved_by_sum(module, train):
    old = {name: value.sum().item() for name, value in module.named_parameters()}
    train()
    return {name for name, value in module.named_parameters() if abs(value.sum().item() - old[name]) > 1e-12}


def moved_with_tolerance(module, train):
    old = {name: value.detach().clone() for name, value in module.named_parameters()}
    train()
    return {name for name, value in module.named_parameters() if not torch.allclose(value, old[name], atol=1e-4)}


def moved_without_training(module, train):
    return {name for name, _ in module.named_parameters()}


def moved_twice(module, train):
    train()
    return moved_by_distance(module, train)


def moved_modules(module, train):
    return {name.split(".")[0] for name in moved_by_distance(module, train)}


def moved_first_only(module, train):
    return set(sorted(moved_by_distance(module, train))[:1])


def test_moved():
    assert_check(
        checks.moved,
        right=[moved_with_loop, moved_by_distance],
        wrong={
            "no copy": (moved_without_copy, "moves along with it"),
            "gradient": (moved_by_gradient, "A gradient is not a movement"),
            "sums": (moved_by_sum, "You compare sums"),
            "tolerance": (moved_with_tolerance, "A small movement is a movement"),
            "no training": (moved_without_training, "called 0 times"),
            "twice": (moved_twice, "called 2 times"),
            "modules": (moved_modules, "none of module.named_parameters()"),
            "a text": (lambda module, train: "head.weight", "needs a set of names"),
        },
    )
    # a single movement cannot be missed in part, so this mistake does not show on every problem
    found = {checks.moved.run(moved_first_only, seed=seed).diagnosis for seed in SEEDS}
    assert any("You miss parameters that moved" in diagnosis for diagnosis in found), found


# ------------------------------------------------------------------ 02.3 one task by hand


def task_with_loop(data, way, shot, query, generator):
    """The plain loop over classes, in uint8."""
    support, queries = [], []
    for index in torch.randperm(data.classes, generator=generator)[:way].tolist():
        images = data.of_class(index)
        images = images[torch.randperm(len(images), generator=generator)[: shot + query]]
        support.append(images[:shot])
        queries.append(images[shot:])
    labels = torch.arange(way)
    return torch.cat(support), labels.repeat_interleave(shot), torch.cat(queries), labels.repeat_interleave(query)


def task_in_random_order(data, way, shot, query, generator):
    """All at once by sorting random keys, float32; the samples of a task in no order."""
    classes = torch.rand(data.classes, generator=generator).argsort()[:way]
    keys = torch.rand(way, int(data.counts.max()), generator=generator)
    keys[torch.arange(keys.shape[1]) >= data.counts[classes, None]] = 2.0
    chosen = data.first[classes, None] + keys.argsort(1)[:, : shot + query]
    labels = torch.arange(way)[:, None].expand(-1, shot + query)
    parts = []
    for columns in (slice(0, shot), slice(shot, None)):
        order = torch.randperm(labels[:, columns].numel(), generator=generator)
        parts += [data.images[chosen[:, columns].flatten()[order]].float() / 255, labels[:, columns].flatten()[order]]
    return tuple(parts)


def with_fault(change):
    """The plain loop with one thing changed: change(task, data, way, shot, query, generator) -> task."""

    def answer(data, way, shot, query, generator):
        return change(task_with_loop(data, way, shot, query, generator), data, way, shot, query, generator)

    return answer


@with_fault
def task_that_shares(task, data, way, shot, query, generator):
    support_x, support_y, query_x, query_y = task
    query_x = query_x.clone()
    query_x[:: query_x.shape[0] // way] = support_x[:: support_x.shape[0] // way]
    return support_x, support_y, query_x, query_y


def task_with_repeated_classes(data, way, shot, query, generator):
    classes = torch.randint(data.classes, (way,), generator=generator)
    return task_of_classes(data, classes, shot, query, generator)


def task_of_classes(data, classes, shot, query, generator, pick=torch.randperm):
    support, queries = [], []
    for index in classes.tolist():
        images = data.of_class(index)
        images = images[pick(len(images), generator=generator)[: shot + query]]
        support.append(images[:shot])
        queries.append(images[shot:])
    labels = torch.arange(len(classes))
    return torch.cat(support), labels.repeat_interleave(shot), torch.cat(queries), labels.repeat_interleave(query)


def task_in_class_order(data, way, shot, query, generator):
    classes = torch.randperm(data.classes, generator=generator)[:way].sort().values
    return task_of_classes(data, classes, shot, query, generator)


def task_of_first_samples(data, way, shot, query, generator):
    classes = torch.randperm(data.classes, generator=generator)[:way]
    return task_of_classes(data, classes, shot, query, generator, lambda n, generator: torch.arange(n))


def task_of_first_classes(data, way, shot, query, generator):
    return task_of_classes(data, torch.randperm(way, generator=generator), shot, query, generator)


def task_of_own_random(data, way, shot, query, generator):
    return task_with_loop(data, way, shot, query, None)


def task_of_own_seed(data, way, shot, query, generator):
    return task_with_loop(data, way, shot, query, torch.Generator().manual_seed(0))


def task_of_smallest_count(data, way, shot, query, generator):
    classes = torch.randperm(data.classes, generator=generator)[:way]
    few = shot + query
    return task_of_classes(
        data, classes, shot, query, generator, lambda n, generator: torch.randperm(few, generator=generator)
    )


@with_fault
def task_with_class_numbers(task, data, way, shot, query, generator):
    return task[0], task[1] + way, task[2], task[3] + way


@with_fault
def task_with_tiled_labels(task, data, way, shot, query, generator):
    labels = torch.arange(way)
    return task[0], task[1], task[2], labels.repeat(query)


@with_fault
def task_with_unequal_labels(task, data, way, shot, query, generator):
    return task[0], torch.zeros_like(task[1]), task[2], task[3]


@with_fault
def task_with_leading_dimension(task, data, way, shot, query, generator):
    return tuple(part[None] for part in task)


@with_fault
def task_with_float_labels(task, data, way, shot, query, generator):
    return task[0], task[1].float(), task[2], task[3].float()


@with_fault
def task_of_one_query(task, data, way, shot, query, generator):
    return task[0], task[1], task[2][::query], task[3][::query]


@with_fault
def task_with_double_queries(task, data, way, shot, query, generator):
    return task[0], task[1], task[2][torch.arange(way).repeat_interleave(query) * query], task[3]


@with_fault
def task_of_three(task, data, way, shot, query, generator):
    return task[:3]


def test_sample_episode():
    assert_check(
        checks.sample_episode,
        right=[task_with_loop, task_in_random_order],
        wrong={
            "share": (task_that_shares, "Support and query share images"),
            "repeated classes": (task_with_repeated_classes, "Two labels of one task mean the same class"),
            "not shuffled": (task_in_class_order, "Labels are not shuffled per task"),
            "same support": (task_of_first_samples, "always the support"),
            "first classes": (task_of_first_classes, "never drawn: all"),
            "own random": (task_of_own_random, "The same generator state gave two different tasks"),
            "own seed": (task_of_own_seed, "Every generator gives the same task"),
            "class numbers": (task_with_class_numbers, "The labels run from"),
            "tiled labels": (task_with_tiled_labels, "A query's label does not name its class"),
            "unequal labels": (task_with_unequal_labels, "do not occur equally often"),
            "leading dimension": (task_with_leading_dimension, "leading task dimension"),
            "float labels": (task_with_float_labels, "floating point"),
            "one query": (task_of_one_query, "has shape"),
            "double queries": (task_with_double_queries, "An image occurs twice"),
            "three": (task_of_three, "four tensors"),
        },
    )


def test_sample_episode_sees_the_last_sample_missing():
    """Classes differ in size only in some problems: enough to find it, not in each."""
    found = {checks.sample_episode.run(task_of_smallest_count, seed=seed).diagnosis for seed in SEEDS}
    assert any("The last sample of some class is never drawn" in diagnosis for diagnosis in found), found


def test_sample_episode_lets_right_answers_pass_for_many_seeds():
    """The check judges random draws: its false alarms must be too rare to meet."""
    failures = [seed for seed in range(40) if not checks.sample_episode.run(task_with_loop, seed=seed).passed]
    assert not failures


# ------------------------------------------------------------------ 02.4 a paired difference


def paired_with_loop(a, b):
    differences = [x - y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    return mean, 1.96 * math.sqrt(variance / len(differences))


def paired_float32(a, b):
    values = a.float() - b.float()
    return values.mean(), 1.96 * values.std() / len(values) ** 0.5


def paired_of_student(a, b):
    student = 2.0227 if len(a) < 45 else 2.0
    return (a - b).mean(), student * (a - b).std() / len(a) ** 0.5


def paired_of_numpy(a, b):
    values = (a - b).numpy()
    return values.mean(), 1.96 * values.std(ddof=1) / len(values) ** 0.5


def paired_by_covariance(a, b):
    """Another way round: the variance of a difference is that of both, less twice their covariance."""
    table = torch.cov(torch.stack([a, b]))
    variance = table[0, 0] + table[1, 1] - 2 * table[0, 1]
    return a.mean() - b.mean(), 1.96 * (variance / len(a)).sqrt()


def test_paired():
    def half(values):
        return 1.96 * values.std() / len(values) ** 0.5

    def scaled(factor):
        return lambda a, b: ((a - b).mean(), factor(a - b) * (a - b).std())

    def wide(how):
        return lambda a, b: ((a - b).mean(), how(half(a), half(b)))

    assert_check(
        checks.paired,
        right=[paired_with_loop, paired_float32, paired_of_student, paired_of_numpy, paired_by_covariance],
        wrong={
            "unpaired": (wide(lambda x, y: (x**2 + y**2) ** 0.5), "as if the episodes were different ones"),
            "sum": (wide(lambda x, y: x + y), "You add the two half widths"),
            "difference": (wide(lambda x, y: abs(x - y)), "You subtract the two half widths"),
            "only a": (wide(lambda x, y: x), "half width of a alone"),
            "only b": (wide(lambda x, y: y), "half width of b alone"),
            "sign": (lambda a, b: paired_with_loop(b, a), "positive when a is the better one"),
            "mean of a": (lambda a, b: (a.mean(), half(a)), "the mean of a alone"),
            "mean of b": (lambda a, b: (b.mean(), half(b)), "the mean of b alone"),
            "by n in the spread": (
                lambda a, b: ((a - b).mean(), 1.96 * (a - b).std(correction=0) / len(a) ** 0.5),
                "for a sample it is n − 1",
            ),
            "spread": (scaled(lambda values: 1), "spread of single differences"),
            "1.96 spreads": (scaled(lambda values: 1.96), "where single differences fall"),
            "standard error": (scaled(lambda values: len(values) ** -0.5), "about 68 %"),
            "full width": (scaled(lambda values: 2 * 1.96 * len(values) ** -0.5), "the full width"),
            "by n": (scaled(lambda values: 1.96 / len(values)), "not by n"),
            "variance": (scaled(lambda values: 1.96 * values.std() * len(values) ** -0.5), "uses the variance"),
            "ends": (lambda a, b: ((a - b).mean() - half(a - b), (a - b).mean() + half(a - b)), "two ends"),
            "median": (lambda a, b: ((a - b).median() + 0.1, half(a - b)), "The mean difference is"),
            "one number": (lambda a, b: (a - b).mean(), "it needs two numbers"),
        },
    )


# ------------------------------------------------------------------ 02.5 the outer loss of one task


def outer_with_loop(body, support_x, support_y, query_x, query_y, way):
    support, queries = body(support_x), body(query_x)
    centres = torch.stack([support[support_y == label].mean(0) for label in range(way)])
    logits = -((queries[:, None] - centres) ** 2).sum(-1)
    return F.cross_entropy(logits, query_y)


def outer_in_one_pass(body, support_x, support_y, query_x, query_y, way):
    """Support and queries through the body together, float32; the distance as the linear layer that it is."""
    features = body(torch.cat([support_x, query_x])).float()
    support, queries = features[: len(support_x)], features[len(support_x) :]
    members = F.one_hot(support_y, way).float()
    centres = (members.T @ support) / members.sum(0)[:, None]
    logits = 2 * queries @ centres.T - centres.square().sum(1)
    return F.nll_loss(logits.log_softmax(1), query_y)


def outer_by_one_step(body, support_x, support_y, query_x, query_y, way):
    """One inner step of rate 1 on the mean of ½‖f(x) − v‖² within each class, from 0."""
    features = body(support_x)
    centres = features.new_zeros(way, features.shape[1], requires_grad=True)
    inner_loss = sum(0.5 * ((features[support_y == k] - centres[k]) ** 2).sum(1).mean() for k in range(way))
    (slope,) = torch.autograd.grad(inner_loss, centres, create_graph=True)
    return F.cross_entropy(-(torch.cdist(body(query_x), centres - slope) ** 2), query_y)


def means(features, labels, way):
    return torch.stack([features[labels == label].mean(0) for label in range(way)])


def squares(features, centres):
    return ((features[:, None] - centres) ** 2).sum(-1)


def outer_on_support(body, support_x, support_y, query_x, query_y, way):
    return outer_with_loop(body, support_x, support_y, support_x, support_y, way)


def outer_far_is_near(body, support_x, support_y, query_x, query_y, way):
    return F.cross_entropy(squares(body(query_x), means(body(support_x), support_y, way)), query_y)


def outer_without_square(body, support_x, support_y, query_x, query_y, way):
    return F.cross_entropy(-squares(body(query_x), means(body(support_x), support_y, way)).sqrt(), query_y)


def outer_mean_square(body, support_x, support_y, query_x, query_y, way):
    distances = squares(body(query_x), means(body(support_x), support_y, way))
    return F.cross_entropy(-distances / body(query_x).shape[1], query_y)


def outer_with_half(body, support_x, support_y, query_x, query_y, way):
    return F.cross_entropy(-0.5 * squares(body(query_x), means(body(support_x), support_y, way)), query_y)


def outer_of_probabilities(body, support_x, support_y, query_x, query_y, way):
    logits = -squares(body(query_x), means(body(support_x), support_y, way))
    return F.cross_entropy(logits.softmax(1), query_y)


def outer_in_order(body, support_x, support_y, query_x, query_y, way):
    features = body(support_x)
    centres = features.view(way, -1, features.shape[1]).mean(1)
    return F.cross_entropy(-squares(body(query_x), centres), query_y)


def outer_with_queries_in_means(body, support_x, support_y, query_x, query_y, way):
    centres = means(body(torch.cat([support_x, query_x])), torch.cat([support_y, query_y]), way)
    return F.cross_entropy(-squares(body(query_x), centres), query_y)


def outer_of_query_means(body, support_x, support_y, query_x, query_y, way):
    return outer_with_loop(body, query_x, query_y, query_x, query_y, way)


def outer_cut(body, support_x, support_y, query_x, query_y, way):
    centres = means(body(support_x), support_y, way).detach()
    return F.cross_entropy(-squares(body(query_x), centres), query_y)


def outer_without_graph(body, support_x, support_y, query_x, query_y, way):
    with torch.no_grad():
        centres = means(body(support_x), support_y, way)
    return F.cross_entropy(-squares(body(query_x), centres), query_y)


def outer_half(body, support_x, support_y, query_x, query_y, way):
    return F.cross_entropy(-squares(body(query_x).detach(), means(body(support_x), support_y, way)), query_y)


def outer_detached(*task):
    return outer_with_loop(*task).detach()


def outer_sum(*task):
    return outer_with_loop(*task) * len(task[4])


def outer_of_sums(body, support_x, support_y, query_x, query_y, way):
    features = body(support_x)
    centres = torch.stack([features[support_y == label].sum(0) for label in range(way)])
    return F.cross_entropy(-squares(body(query_x), centres), query_y)


def outer_per_query(body, support_x, support_y, query_x, query_y, way):
    distances = squares(body(query_x), means(body(support_x), support_y, way))
    return F.cross_entropy(-distances, query_y, reduction="none")


def outer_as_number(*task):
    return outer_with_loop(*task).item()


def test_outer_loss():
    assert_check(
        checks.outer_loss,
        right=[outer_with_loop, outer_in_one_pass, outer_by_one_step],
        wrong={
            "support": (outer_on_support, "the loss on the support set"),
            "sign": (outer_far_is_near, "Sign: the nearest"),
            "no square": (outer_without_square, "not squared"),
            "half": (outer_with_half, "without the ½"),
            "two softmaxes": (outer_of_probabilities, "There are two softmaxes"),
            "mean square": (outer_mean_square, "are means over the features"),
            "in order": (outer_in_order, "in the order of the images"),
            "queries in means": (outer_with_queries_in_means, "hold the queries too"),
            "query means": (outer_of_query_means, "the means of the queries"),
            "cut": (outer_cut, "class means are cut from the graph"),
            "queries cut": (outer_half, "query features are cut"),
            "detached": (outer_detached, "it carries no gradient"),
            "sum": (outer_sum, "query losses are added up"),
            "per query": (outer_per_query, "shape"),
            "a number": (outer_as_number, "it needs one tensor"),
        },
    )
    assert "class means are cut" in checks.outer_loss.run(outer_without_graph).diagnosis
    assert "are sums of features" in checks.outer_loss.run(outer_of_sums).diagnosis  # at one shot sum = mean


def test_names_that_can_be_read_once_only_are_refused():
    said = checks.moved.run(lambda module, train: (n for n in sorted(checks.moved_parameters(module, train)))).diagnosis
    assert "it needs a set of names" in said


def test_logits_that_all_happen_to_be_positive_are_no_fault():
    def my_network(channels, size, classes):
        network = checks.listing_network(channels, size, classes)
        with torch.no_grad():
            network[-1].bias.fill_(5.0)
        return network

    assert checks.inner_network.run(my_network).passed


def test_the_names_that_stayed_are_told():
    def my_moved(module, train):
        return {name for name, _ in module.named_parameters()} - checks.moved_parameters(module, train)

    assert "stayed as they were" in checks.moved.run(my_moved).diagnosis
