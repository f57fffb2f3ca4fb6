"""Drawn faces: the same from the same seed, nobody twice, and each number can be seen."""

import pytest
import speed
import torch

from mlcourse.datasets import faces
from mlcourse.errors import CourseError

PLAIN_NUMBERS = {"hidden x", "hidden y", "hidden tone"}  # seen only where something is hidden


@pytest.fixture(scope="module")
def some():
    """60 people."""
    return faces.draw_people(60, torch.Generator().manual_seed(5))


def distance(a, b):
    """Root of the mean square difference per picture, grey in 0 … 1."""
    return ((a.float() - b.float()) / 255).flatten(1).square().mean(1).sqrt()


def test_a_split_has_its_people_each_with_ten_grey_pictures():
    for split, count in faces.PEOPLE.items():
        data = faces.load(split, samples=2)
        assert data.classes == count
        assert data.shape == (1, 48, 40)
        assert data.counts.tolist() == [2] * count
    assert faces.SAMPLES == 10


def test_no_two_splits_share_a_person():
    names = [set(faces.load(split, samples=1).names) for split in faces.PEOPLE]
    assert sum(map(len, names)) == len(set.union(*names)) == 400
    assert faces.load("all", samples=1).names == tuple(sorted(set.union(*names)))


def test_the_same_seed_gives_the_same_faces_in_every_split():
    once, again = faces.load("val", samples=3), faces.load("val", samples=3)
    assert torch.equal(once.images, again.images)
    both = faces.load("trainval", samples=3)
    assert torch.equal(both.images[-len(once.images) :], once.images)
    assert not torch.equal(faces.load("val", samples=3, seed=1).images, once.images)


def test_no_two_people_are_nearly_the_same():
    everyone = faces.population()
    portraits = faces.render(everyone, faces.plain(400)).flatten(1).float() / 255
    away = torch.cdist(portraits, portraits) / portraits.shape[1] ** 0.5
    away.fill_diagonal_(1)
    assert away.min() >= faces.TWINS


def test_a_twin_is_left_out(monkeypatch):
    drawn = faces.draw_people(500, torch.Generator().manual_seed(0))
    twins = {name: torch.cat([value[:1], value[:-1]]) for name, value in drawn.items()}  # the first one twice
    monkeypatch.setattr(faces, "draw_people", lambda count, generator: twins)
    found = faces.population.__wrapped__(0)
    assert (found["skin"] == twins["skin"][0]).sum() == 1


@pytest.mark.parametrize("name", faces.PERSON)
def test_each_number_of_a_person_is_seen(name, some):
    """From its least to its most the plain portraits change, all else the same."""
    low, high = faces.PERSON[name]
    pictures = faces.plain(60)
    ends = [faces.render(some | {name: torch.full((60,), end)}, pictures) for end in (low, high)]
    assert distance(*ends).median() > 0.008


@pytest.mark.parametrize("name", sorted(set(faces.PICTURE) - PLAIN_NUMBERS))
def test_each_number_of_a_picture_is_seen(name, some):
    plainly, low, high, _ = faces.PICTURE[name]
    pictures = faces.plain(60)
    far = max((low, high), key=lambda end: abs(end - plainly))
    changed = faces.render(some, pictures | {name: torch.full((60,), far)})
    assert distance(changed, faces.render(some, pictures)).median() > 0.008


@pytest.mark.parametrize("name", sorted(PLAIN_NUMBERS))
def test_each_number_of_what_is_hidden_is_seen(name, some):
    hidden = faces.plain(60) | {"hidden": torch.ones(60)}
    _, low, high, _ = faces.PICTURE[name]
    ends = [faces.render(some, hidden | {name: torch.full((60,), end)}) for end in (low, high)]
    assert distance(*ends).median() > 0.03


def test_pictures_of_one_person_differ_as_much_as_pictures_of_two():
    """So pixels alone do not tell who it is: what changes is as large as what stays."""
    data = faces.load("test", samples=2)
    first, second = data.images[::2], data.images[1::2]
    same = distance(first, second).mean()
    other = distance(first, second.roll(1, 0)).mean()
    assert 0.75 * other < same < other


def test_a_face_does_not_depend_on_those_beside_it(some):
    pictures = faces.draw_pictures(60, torch.Generator().manual_seed(1)) | {"noise": torch.zeros(60)}
    together = faces.render(some, pictures)
    alone = faces.render(
        *(faces.picked(numbers, torch.tensor([37])) for numbers in (some, pictures)),
    )
    assert (together[37].int() - alone[0].int()).abs().max() <= 1


def test_another_size_shows_the_same_face(some):
    large = faces.render(some, faces.plain(60), (96, 80)).float()
    small = faces.render(some, faces.plain(60)).float()
    assert distance(torch.nn.functional.avg_pool2d(large, 2), small).max() < 0.05


def test_faces_are_drawn_about_as_fast_as_a_few_dozen_warps_of_them(some):
    """On a quiet core a thousand take half a second; the bar is three times what was measured."""
    generator = torch.Generator().manual_seed(0)
    people, pictures = faces.draw_people(300, generator), faces.draw_pictures(300, generator)
    drawn = faces.render(people, pictures).float()
    grid = torch.rand(300, *drawn.shape[2:], 2, generator=generator) * 2 - 1

    def warps() -> None:
        for _ in range(20):
            torch.nn.functional.grid_sample(drawn, grid, align_corners=False)

    times = speed.on_one_thread(lambda: speed.ratio(lambda: faces.render(people, pictures), warps))
    assert times < 15


def test_what_cannot_be_drawn_is_told(some):
    with pytest.raises(CourseError, match="unknown split 'tests'"):
        faces.load("tests")
    with pytest.raises(CourseError, match="samples is 0"):
        faces.load("val", samples=0)
    with pytest.raises(CourseError, match="no 'skin'; give all of"):
        faces.render({name: value for name, value in some.items() if name != "skin"}, faces.plain(60))
    with pytest.raises(CourseError, match="of \\[59, 60\\] faces"):
        faces.render(some, faces.plain(59))
    with pytest.raises(CourseError, match="skin of a face is nan"):
        faces.render(some | {"skin": torch.full((60,), float("nan"))}, faces.plain(60))
    with pytest.raises(CourseError, match="size is 4"):
        faces.render(some, faces.plain(60), (4, 40))


def test_no_faces_are_no_pictures():
    nobody = faces.draw_people(0, torch.Generator())
    assert faces.render(nobody, faces.plain(0)).shape == (0, 1, 48, 40)
