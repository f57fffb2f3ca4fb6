"""One-shot tasks on photos with label maps: what is asked for, what is void, and that training never sees a class that
is unseen."""

import pytest
import torch

from mlcourse.datasets import label_maps
from mlcourse.datasets.label_maps import LabelMaps
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.vision.frozen import ConstantMask
from mlcourse.vision.photos import VOID, PhotoTasks

SIZE = 16


def made(photos=12, classes=3):
    """Photos whose upper half is of class 1, 2 or 3 and of that colour; the lowest two rows are void."""
    labels = torch.zeros(photos, SIZE, SIZE, dtype=torch.uint8)
    images = torch.full((photos, 3, SIZE, SIZE), 20, dtype=torch.uint8)
    for photo in range(photos):
        labels[photo, : SIZE // 2] = 1 + photo % classes
        images[photo, photo % classes, : SIZE // 2] = 200
    labels[:, -2:] = label_maps.VOID
    names = {one: f"class{one}" for one in range(1, classes + 1)}
    return LabelMaps(images, labels, names, tuple(map(str, range(photos))), "made")


def sampled(source, tasks=40, seed=0) -> Episode:
    return source.sample(tasks, torch.Generator().manual_seed(seed))


def test_a_task_asks_for_one_class_in_photos_that_show_it():
    source = PhotoTasks(made(), shot=2, query=1)
    batch = sampled(source)
    assert batch.support_x.shape == (40, 2, 3, SIZE, SIZE)
    assert batch.query_y.shape == (40, 1, SIZE, SIZE)
    assert (batch.support_x.dtype, batch.support_y.dtype) == (torch.float32, torch.int64)
    assert set(batch.classes.flatten().tolist()) == {0, 1, 2}
    every = torch.cat([batch.support_index, batch.query_index], 1)
    assert (every % 3 == batch.classes).all()
    assert all(len(set(row)) == 3 for row in every.tolist())
    masks = torch.cat([batch.support_y, batch.query_y], 1)
    assert (masks[..., : SIZE // 2, :] == 1).all()
    assert (masks[..., SIZE // 2 : -2, :] == 0).all()
    assert (masks[..., -2:, :] == VOID).all()
    assert batch.query_x.max() <= 1


def test_one_seed_means_the_same_tasks_in_pixels_and_in_features():
    maps = made()
    features = torch.arange(12.0).view(12, 1, 1, 1).expand(-1, 5, 4, 4)
    pixels, mapped = (sampled(PhotoTasks(maps, features=given)) for given in (None, features))
    assert torch.equal(pixels.query_index, mapped.query_index)
    assert torch.equal(pixels.query_y, mapped.query_y)
    assert mapped.support_x.shape == (40, 1, 5, 4, 4)
    assert torch.equal(mapped.support_x[..., 0, 0, 0].long(), mapped.support_index)
    assert PhotoTasks(maps).describe() == PhotoTasks(maps, features=features).describe()


def test_in_training_no_pixel_of_an_unseen_class_is_a_target_or_background():
    maps = made()
    two = maps.labels.clone()
    two[:, SIZE // 2 : SIZE // 2 + 2] = 1  # class 1 stands in every photo
    maps = LabelMaps(maps.images, two, maps.names, maps.files, "made")
    batch = sampled(PhotoTasks(maps.without(["class1"])))
    assert (batch.support_y[..., SIZE // 2 : SIZE // 2 + 2, :] == VOID).all()
    tested = sampled(PhotoTasks(maps.only(["class1"])))
    assert (tested.query_y[..., SIZE // 2 : SIZE // 2 + 2, :] == 1).all()


def test_a_class_counts_where_it_covers_enough_of_a_photo():
    maps = made()
    labels = maps.labels.clone()
    labels[0, 0, :4] = 2  # four pixels of 224 known ones
    maps = LabelMaps(maps.images, labels, maps.names, maps.files, "made")
    assert PhotoTasks(maps, least=0.01).counts.tolist() == [4, 5, 4]
    assert PhotoTasks(maps, least=0.02).counts.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PhotoTasks(made(), shot=4), "class1, class2, class3 of made: fewer than 5 photos where the class"),
        (lambda: PhotoTasks(made(), shot=0), "shot is 0"),
        (lambda: PhotoTasks(made(), least=0), "least is 0; give a finite number above 0"),
        (lambda: PhotoTasks(made(), features=torch.zeros(3, 5, 4, 4)), r"features are \(3, 5, 4, 4\) for 12 photos"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(make, says):
    with pytest.raises(CourseError, match=says):
        make()


def test_the_tasks_are_evaluated_as_all_others_are():
    result = evaluate(ConstantMask(SIZE), PhotoTasks(made()), episodes=30, seed=1)
    assert result.value == pytest.approx(8 / 14)  # 8 rows of 14 that are not void
    assert result.transductive is False
