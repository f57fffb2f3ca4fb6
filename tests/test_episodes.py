"""The properties that make an episode a fair task, and the errors that stop an unfair one."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from core_helpers import squares

from mlcourse.datasets import ClassImages
from mlcourse.episodes import EpisodeSampler, SinusoidTasks, draw_distinct
from mlcourse.errors import CourseError


def numbered(counts, shape=(1, 2, 2)):
    """Each picture of class c holds the value c everywhere, so that a picture tells its class."""
    counts = torch.tensor(counts)
    value = torch.arange(len(counts)).repeat_interleave(counts).to(torch.uint8)
    names = tuple(f"class {i}" for i in range(len(counts)))
    return ClassImages(value.view(-1, 1, 1, 1).expand(-1, *shape).contiguous(), counts, names, names, "numbered", "all")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


RAGGED = [7, 20, 9, 31, 12, 6, 40]


def test_shapes_types_and_range():
    episode = EpisodeSampler(numbered([20] * 8, shape=(3, 5, 4)), way=4, shot=2, query=3).sample(6, seeded())
    assert episode.support_x.shape == (6, 8, 3, 5, 4)
    assert episode.query_x.shape == (6, 12, 3, 5, 4)
    assert episode.support_y.shape == episode.support_index.shape == (6, 8)
    assert episode.query_y.shape == episode.query_index.shape == (6, 12)
    assert episode.classes.shape == (6, 4)
    assert episode.support_x.dtype == torch.float32
    assert episode.support_y.dtype == episode.classes.dtype == episode.query_index.dtype == torch.int64
    assert episode.tasks == 6
    assert episode.way == 4


def test_ink_255_becomes_one():
    data = numbered([4, 4])
    data.images.fill_(255)
    assert EpisodeSampler(data, 2, 1, 1).sample(3, seeded()).query_x.eq(1.0).all()


@pytest.mark.parametrize("counts", [[20] * 9, RAGGED])
@pytest.mark.parametrize(("way", "shot", "query"), [(5, 1, 5), (7, 2, 4), (1, 5, 1), (2, 1, 1)])
def test_distinct_classes_and_disjoint_samples(counts, way, shot, query):
    data = numbered(counts)
    episode = EpisodeSampler(data, way, shot, query).sample(200, seeded())
    assert all(len(set(row)) == way for row in episode.classes.tolist())
    together = torch.cat([episode.support_index, episode.query_index], 1)
    assert all(len(set(row)) == way * (shot + query) for row in together.tolist())


def test_every_picture_is_of_the_class_behind_its_label():
    # Ragged classes: an index that ran over the end of a class would show the value of the next one.
    data = numbered(RAGGED)
    episode = EpisodeSampler(data, 5, 2, 4).sample(300, seeded())
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        shown = (x[:, :, 0, 0, 0] * 255).round().long()
        assert torch.equal(shown, episode.classes.gather(1, y))
    assert torch.equal(data.images[episode.query_index.flatten()].float() / 255, episode.query_x.flatten(0, 1))


def test_class_major_order():
    episode = EpisodeSampler(numbered([20] * 8), 3, 2, 4).sample(2, seeded())
    assert episode.support_y[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert episode.query_y[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_same_seed_same_episodes_and_another_seed_others():
    sampler = EpisodeSampler(numbered([20] * 50), 5, 1, 5)
    first, again, other = (sampler.sample(20, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.support_index, again.support_index)
    assert torch.equal(first.query_x, again.query_x)
    assert not torch.equal(first.query_index, other.query_index)


def test_one_generator_gives_fresh_tasks_each_time():
    sampler, generator = EpisodeSampler(numbered([20] * 50), 5, 1, 5), seeded()
    assert not torch.equal(sampler.sample(4, generator).classes, sampler.sample(4, generator).classes)


def test_the_global_random_state_has_no_part():
    sampler = EpisodeSampler(numbered([20] * 50), 5, 1, 5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sampler.sample(5, seeded()).classes
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, sampler.sample(5, seeded()).classes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_same_episodes_on_a_gpu():
    data = numbered([20] * 50)
    here, there = (EpisodeSampler(data, 5, 1, 5, device=device).sample(7, seeded()) for device in ("cpu", "cuda"))
    assert there.query_x.device.type == there.classes.device.type == "cuda"
    for name in ("support_x", "support_y", "query_x", "query_y", "classes", "support_index", "query_index"):
        assert torch.equal(getattr(here, name), getattr(there, name).cpu())


def chi_square_bound(cells, sigmas=5):
    """The chi-square statistic has mean cells-1 and variance 2(cells-1); five deviations is never met by chance."""
    return cells - 1 + sigmas * math.sqrt(2 * (cells - 1))


def chi_square(counted, expected):
    return float(((counted - expected) ** 2 / expected).sum())


def test_each_class_gets_each_label_equally_often():
    # Without shuffling, class 0 would always be label 0 and a network could learn the labels by heart.
    classes = EpisodeSampler(numbered([6] * 8), 5, 1, 1).sample(16_000, seeded(1)).classes
    for label in range(5):
        counted = classes[:, label].bincount(minlength=8).double()
        assert chi_square(counted, 16_000 / 8) < chi_square_bound(8)


def test_each_ordered_pair_of_classes_is_equally_frequent():
    # Uniform single classes do not make uniform tasks: neighbours could come together more often.
    classes = EpisodeSampler(numbered([6] * 6), 2, 1, 1).sample(30_000, seeded(2)).classes
    pairs = (classes[:, 0] * 6 + classes[:, 1]).bincount(minlength=36).view(6, 6).double()
    assert pairs.diagonal().sum() == 0
    off = pairs[~torch.eye(6, dtype=torch.bool)]
    assert chi_square(off, 1000.0) < chi_square_bound(30)


def test_each_sample_is_support_and_query_equally_often():
    data = numbered(RAGGED)
    episode = EpisodeSampler(data, 7, 2, 3).sample(8000, seeded(3))
    for index, per_class in ((episode.support_index, 2), (episode.query_index, 3)):
        counted = index.flatten().bincount(minlength=len(data.images)).double()
        expected = (8000 * per_class / data.counts).repeat_interleave(data.counts)
        # Draws without replacement vary less than independent ones, so the bound holds with room.
        assert chi_square(counted, expected) < chi_square_bound(len(counted))


def test_draw_distinct_is_uniform_over_sequences():
    drawn = draw_distinct(torch.full((24_000,), 4), 3, seeded(4))
    code = (drawn * torch.tensor([16, 4, 1])).sum(1)
    counted = code.bincount()
    assert int((counted > 0).sum()) == 24
    assert chi_square(counted[counted > 0].double(), 1000.0) < chi_square_bound(24)


def test_draw_distinct_takes_everything_when_it_must():
    sizes = torch.tensor([3, 5, 3, 3])
    drawn = draw_distinct(sizes, 3, seeded())
    assert bool((drawn < sizes[:, None]).all())
    assert [sorted(row) for row in drawn[[0, 2, 3]].tolist()] == [[0, 1, 2]] * 3


def test_one_task_of_a_batch():
    episode = EpisodeSampler(numbered([20] * 8), 3, 1, 2).sample(5, seeded())
    one = episode.task(2)
    assert one.tasks == 1
    assert one.way == 3
    assert torch.equal(one.query_x[0], episode.query_x[2])
    assert torch.equal(episode.task(-1).classes[0], episode.classes[4])
    with pytest.raises(CourseError, match="task 5 does not exist"):
        episode.task(5)


@pytest.mark.parametrize(
    ("way", "shot", "query", "message"),
    [
        (0, 1, 1, "way is 0"),
        (-5, 1, 1, "way is -5"),
        (5, 0, 1, "shot is 0"),
        (5, -1, 1, "shot is -1"),
        (5, 1, 0, "query is 0"),
        (5.0, 1, 1, "way is 5.0"),
        (5, True, 1, "shot is True"),
        (9, 1, 1, "way 9 is more than the 8 classes of numbered all: choose way <= 8"),
        (5, 1, 20, "shot 1 [+] query 20 = 21 samples per class, but 'class 0' of numbered all has 20"),
        (5, 20, 1, "shot 20 [+] query 1 = 21"),
    ],
)
def test_requests_that_cannot_be_met(way, shot, query, message):
    with pytest.raises(CourseError, match=message) as error:
        EpisodeSampler(numbered([20] * 8), way, shot, query)
    assert "\n" not in str(error.value)


def test_the_smallest_class_is_the_one_named():
    with pytest.raises(CourseError, match="'class 5' of numbered all has 6"):
        EpisodeSampler(numbered(RAGGED), 5, 1, 6)


@pytest.mark.parametrize("tasks", [0, -1, 2.5])
def test_number_of_tasks(tasks):
    with pytest.raises(CourseError, match="tasks is"):
        EpisodeSampler(numbered([20] * 8)).sample(tasks, seeded())


def test_rotations_stay_apart_and_consistent():
    # The four turns of a class are four classes. A task may hold two of them, each with pictures of its own turn.
    data = numbered([4] * 3, shape=(1, 4, 4))
    data.images[:, :, 0, 0] = 255
    turned = data.with_rotations()
    episode = EpisodeSampler(turned, 12, 1, 3).sample(20, seeded())
    corner = {0: (0, 0), 1: (3, 0), 2: (3, 3), 3: (0, 3)}  # counter-clockwise: top left, bottom left, bottom right, …
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        turn = episode.classes.gather(1, y) % 4
        for quarter, (row, column) in corner.items():
            here = x[turn == quarter]
            assert here[:, 0, row, column].eq(1).all()
            assert here.flatten(1).eq(1).sum(1).eq(1).all()


def test_sinusoids():
    tasks = SinusoidTasks()
    episode = tasks.sample(500, shot=5, query=7, generator=seeded())
    assert episode.support_x.shape == episode.support_y.shape == (500, 5, 1)
    assert episode.query_x.shape == (500, 7, 1)
    assert episode.support_x.dtype == torch.float32
    assert episode.way == 0
    assert episode.query_x.min() >= -5
    assert episode.query_x.max() <= 5
    assert episode.query_y.abs().max() <= 5
    again = tasks.sample(500, shot=5, query=7, generator=seeded())
    assert torch.equal(episode.query_y, again.query_y)
    assert torch.equal(episode.task(3).support_x[0], episode.support_x[3])


def test_a_sinusoid_task_is_one_wave():
    # Every wave A sin(x - b) is a combination of sin x and cos x; support determines it, queries must follow.
    episode = SinusoidTasks().sample(50, shot=10, query=10, generator=seeded(1))
    basis = lambda x: torch.cat([x.sin(), x.cos()], -1).double()  # noqa: E731
    weights = torch.linalg.lstsq(basis(episode.support_x), episode.support_y.double()).solution
    assert torch.allclose(basis(episode.query_x) @ weights, episode.query_y.double(), atol=1e-5)
    amplitude = weights.norm(dim=1)
    assert amplitude.min() >= 0.1 - 1e-5
    assert amplitude.max() <= 5 + 1e-5


@pytest.mark.parametrize("ranges", [{"amplitude": (5.0, 0.1)}, {"x": (0.0, 0.0)}, {"phase": (0.0, math.inf)}])
def test_sinusoid_ranges(ranges):
    with pytest.raises(CourseError, match=f"the range of {next(iter(ranges))} is"):
        SinusoidTasks(**ranges)


def test_sinusoid_counts():
    with pytest.raises(CourseError, match="shot is 0"):
        SinusoidTasks().sample(1, shot=0, query=1, generator=seeded())


def test_a_data_set_is_digested_once_for_all_its_samplers(monkeypatch):
    data, calls = squares(), []
    once = EpisodeSampler(data, 4, 1, 3).describe()["content"]
    monkeypatch.setattr("mlcourse.datasets.images.hashlib.sha256", lambda *given: calls.append(given))
    assert EpisodeSampler(data, 5, 2, 3).describe()["content"] == once
    assert EpisodeSampler(data, 4, 1, 3, device="cpu").describe()["content"] == once
    assert calls == []
    monkeypatch.undo()
    right = hashlib.sha256(repr(data.names).encode() + data.images.numpy().tobytes()).hexdigest()[:12]
    assert once == right  # as it has always been
    assert EpisodeSampler(data.select([3, 1, 2, 0]), 4, 1, 3).describe()["content"] != once


def test_images_of_whole_numbers_are_refused_where_they_would_be_taken_for_shares():
    episode = EpisodeSampler(squares(), 3, 1, 2).sample(2, torch.Generator().manual_seed(0))
    bytes_ = replace(episode, query_x=(255 * episode.query_x).to(torch.uint8))
    with pytest.raises(CourseError, match=r"query_x is of torch\.uint8; give images as floating point numbers"):
        bytes_.to("cpu", torch.float32)
    assert bytes_.to("cpu").query_x.dtype == torch.uint8
    with pytest.raises(CourseError, match="5 distinct numbers do not fit into 4"):
        draw_distinct(torch.tensor([9, 4]), 5, torch.Generator())


def test_distorted_episodes_are_of_the_same_pictures():
    data = squares(classes=8, samples=6)
    plain, bent = (EpisodeSampler(data, 5, 1, 3, distort=strength) for strength in (0, 1.0))
    one, other = (sampler.sample(1, torch.Generator().manual_seed(1)) for sampler in (plain, bent))
    assert torch.equal(one.support_index, other.support_index)
    assert torch.equal(one.query_index, other.query_index)
    assert not torch.equal(one.query_x, other.query_x)
    assert "distort" not in plain.describe()
    assert bent.describe()["distort"] == 1.0
    with pytest.raises(CourseError, match="strength is -1"):
        EpisodeSampler(data, 5, 1, 3, distort=-1)
