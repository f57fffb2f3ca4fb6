"""Detection in photos: boxes without classes, shares by prototypes, the rival that is tuned; on made-up data."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mlcourse.datasets import boxes
from mlcourse.errors import CourseError
from mlcourse.networks import pretrained
from mlcourse.vision import photo_boxes
from mlcourse.vision.precision import Detections, average_precision


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def photos(tmp_path):
    """Two photos, one with two boxes, one with one that is set aside."""
    files = []
    for number, size in enumerate(((40, 24), (20, 30))):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", size, (200, 10 * number, 0)).save(files[-1])
    rows = (torch.tensor([[0.0, 0.0, 8.0, 8.0], [10.0, 4.0, 30.0, 20.0]]), torch.tensor([[1.0, 1.0, 9.0, 9.0]]))
    return boxes.Boxes(
        files=tuple(files),
        sizes=((24, 40), (30, 20)),
        boxes=rows,
        classes=(torch.tensor([0, 1]), torch.tensor([0])),
        aside=(torch.tensor([False, False]), torch.tensor([True])),
        names=("a", "b"),
        name="made",
    )


# ------------------------------------------------------------------ photos


def test_a_photo_stands_in_the_upper_left_corner_of_its_canvas(photos):
    made = photo_boxes.canvas(photos, [0], 48)
    assert (made.shape, made.dtype) == ((1, 3, 48, 48), torch.uint8)
    assert torch.equal(made[0, :, :24, :40], photos.image(0))
    rest = made[0].clone()
    rest[:, :24, :40] = photo_boxes.GREY
    assert (rest == photo_boxes.GREY).all()


def test_a_photo_that_is_too_large_and_boxes_set_aside_are_one_line(photos):
    with pytest.raises(CourseError, match=r"0.png has 40×24 pixels, more than the canvas of 32×32: give a larger side"):
        photo_boxes.canvas(photos, [0], 32)
    with pytest.raises(CourseError, match=r"1.png has boxes that a score shall ignore"):
        photo_boxes.canvas(photos, [1], 48)


def test_rows_of_nan_fill_up(photos):
    made = photo_boxes.padded_boxes(photos.boxes)
    assert made.shape == (2, 2, 4)
    assert torch.equal(made[1, 0], photos.boxes[1][0])
    assert made[1, 1].isnan().all()
    assert photo_boxes.padded_boxes([]).shape == (0, 0, 4)
    assert photo_boxes.padded_boxes([torch.empty(0, 4)]).shape == (1, 0, 4)


# ------------------------------------------------------------------ boxes without classes


def made_maps(count, seed):
    """Maps [count, 4, 12, 12] that tell how far a place is from the middle of the one box, and how large the box is."""
    random, maps, rows = drawn(seed), torch.zeros(count, 4, 12, 12), []
    places = torch.arange(12) + 0.5
    for photo in maps:
        x, y = (2.5 + 7 * torch.rand(2, generator=random)).tolist()
        width, height = (3 + 2 * torch.rand(2, generator=random)).tolist()
        photo[0], photo[1] = (places - x)[None, :], (places - y)[:, None]
        photo[2], photo[3] = width / 5, height / 5
        rows.append(16 * torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]]))
    return maps, rows


def test_a_head_learns_where_something_is_whatever_it_is():
    maps, rows = made_maps(40, 0)
    head = photo_boxes.trained_head(maps, rows, steps=150, rate=5e-3)
    asked, truth = made_maps(20, 1)
    found = head.found(asked, [(192, 192)] * 20)
    assert average_precision(found, truth) > 0.9
    assert all(len(one) <= 10 for one in found)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = photo_boxes.BoxHead(4).found(asked, [(192, 192)] * 20)
    assert average_precision(fresh, truth) < 0.5
    again = photo_boxes.trained_head(maps, rows, steps=3)
    torch.testing.assert_close(again.last.weight, photo_boxes.trained_head(maps, rows, steps=3).last.weight)


def test_boxes_are_cut_to_their_photo():
    maps, rows = made_maps(16, 0)
    head = photo_boxes.trained_head(maps, rows, steps=30)
    for one in head.found(maps, [(100, 60)] * 16):
        assert (one.boxes[:, 2] <= 60).all()
        assert (one.boxes[:, 3] <= 100).all()
        assert (one.boxes >= 0).all()
        assert (one.boxes[:, 2:] - one.boxes[:, :2] >= 1).all()


def test_a_photo_without_a_box_teaches_that_nothing_is_there():
    head = photo_boxes.BoxHead(3)
    loss = head.loss(torch.rand(2, 3, 4, 4, generator=drawn()), torch.full((2, 1, 4), torch.nan))
    loss.backward()
    assert loss.isfinite()
    assert head.last.bias.grad[0] > 0  # less of "something is there"
    with pytest.raises(CourseError, match=r"maps of 2 photos and boxes of 2; give as many, and some box"):
        photo_boxes.trained_head(torch.rand(2, 3, 4, 4), [torch.empty(0, 4)] * 2)


def test_of_two_middles_at_one_place_the_later_box_counts():
    head = photo_boxes.BoxHead(3)
    maps = torch.rand(1, 3, 4, 4, generator=drawn())
    large, small = torch.tensor([0.0, 0.0, 64.0, 64.0]), torch.tensor([24.0, 24.0, 40.0, 40.0])
    both = head.loss(maps, torch.stack([large, small])[None])
    alone = head.loss(maps, small[None, None])
    torch.testing.assert_close(both, alone)


# ------------------------------------------------------------------ what is in a box


def test_what_is_cut_out_is_what_the_frozen_network_sees():
    network = pretrained.backbone(pretrained=False)
    smooth = F.interpolate(torch.rand(2, 3, 6, 6, generator=drawn()), (64, 64), mode="bilinear")
    image = (255 * smooth).byte()
    whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    first, none = photo_boxes.embeddings(network, image, [whole, torch.empty(0, 4)], side=64)
    wanted = network.embed(image[:1].float() / 255)
    assert F.cosine_similarity(first, wanted).item() > 0.99
    assert (first.shape, none.shape) == (wanted.shape, (0, wanted.shape[1]))
    with pytest.raises(CourseError, match=r"2 photos of torch.float32 and boxes of 2; give uint8 photos"):
        photo_boxes.embeddings(network, image.float(), [whole, whole])


def test_shares_are_the_softmax_of_cosines_to_the_mean_direction():
    z = torch.randn(5, 6, generator=drawn())
    examples = [torch.randn(shot, 6, generator=drawn(shot)) for shot in (1, 3)]
    centre = torch.randn(6, generator=drawn(9))
    found = photo_boxes.prototype_shares(z, examples, centre=centre, temperature=0.2)
    for row, share in zip(z, found):
        cosines = []
        for some in examples:
            mean = sum((one - centre) / (one - centre).norm() for one in some) / len(some)
            cosines.append(F.cosine_similarity(row - centre, mean, dim=0) / 0.2)
        torch.testing.assert_close(share, torch.stack(cosines).softmax(0))
    spoiled = z.clone()
    spoiled[2, 1:3] = float("nan")
    with pytest.raises(CourseError, match="features of boxes are nan or infinite in 2 places"):
        photo_boxes.prototype_shares(spoiled, examples, centre=centre)
    with pytest.raises(CourseError, match=r"class 1 .* has no example"):
        photo_boxes.prototype_shares(z, [examples[0], torch.empty(0, 6)], centre=centre)
    with pytest.raises(CourseError, match="temperature"):
        photo_boxes.prototype_shares(z, examples, centre=centre, temperature=0)


def clouds(classes, count, seed):
    """Features around one direction for each class, and the classes."""
    middles = 3 * torch.randn(6, 16, generator=drawn(100))[classes]
    y = torch.arange(len(classes)).repeat_interleave(count)
    return middles[y] + 0.3 * torch.randn(len(y), 16, generator=drawn(seed)), y


def test_the_rival_names_what_it_learned_and_a_new_class_from_three_examples():
    z, y = clouds([0, 1, 2], 20, 0)
    rival = photo_boxes.trained_rival(z, y, steps=60)
    new, _ = clouds([3], 3, 1)
    examples = [*(z[y == place][:3] for place in range(3)), new]
    weight = rival.tune(examples, [0, 1, 2, -1])
    asked, wanted = clouds([0, 1, 2, 3], 10, 2)
    shares = rival.shares(asked, weight)
    torch.testing.assert_close(shares.sum(1), torch.ones(40))
    assert (shares.argmax(1) == wanted).float().mean() > 0.9
    body = [part.clone() for part in rival.body.parameters()]
    rival.tune(examples, [0, 1, 2, -1])
    assert all(torch.equal(a, b) for a, b in zip(body, rival.body.parameters()))  # the last layer alone learns


# ------------------------------------------------------------------ both together


def test_scores_of_a_class_are_those_of_the_box_times_its_share():
    found = [Detections(torch.tensor([[0.0, 0.0, 2.0, 2.0], [4.0, 4.0, 6.0, 6.0]]), torch.tensor([0.9, 0.5]))]
    shares = [torch.tensor([[0.2, 0.8], [0.9, 0.1]])]
    first, second = photo_boxes.by_class(found, shares)
    torch.testing.assert_close(first[0].scores, torch.tensor([0.45, 0.18]))
    assert first[0].boxes[0].tolist() == [4.0, 4.0, 6.0, 6.0]
    torch.testing.assert_close(second[0].scores, torch.tensor([0.72, 0.05]))
    with pytest.raises(CourseError, match="give a row for each box"):
        photo_boxes.by_class(found, [shares[0][:1]])
