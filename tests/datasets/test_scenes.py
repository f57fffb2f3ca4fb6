"""Scenes: what they say of themselves agrees, one seed gives the same ones, and the recipes keep their word."""

import pytest
import speed
import torch

from mlcourse import datasets
from mlcourse.datasets import ClassImages, scenes
from mlcourse.errors import CourseError


@pytest.fixture(scope="module")
def characters():
    return datasets.load("glyphs", "test")


def some(characters, count, number=6, seed=0, recipe="published", target=None):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(characters.classes, (number, count), generator=generator)
    samples = torch.randint(20, (number, count), generator=generator)
    return scenes.draw(characters, classes, samples, generator=generator, recipe=recipe, target=target)


def ink_alone(characters, made, numbers, scene, place, recipe):
    """The ink of one character of a scene, drawn in a scene of its own: bool [size, size]."""
    one = (slice(scene, scene + 1), slice(place, place + 1))
    alone = scenes.compose(characters, made[0][one], made[1][one], numbers[one], recipe=recipe)
    return alone.owner[0] == 0


@pytest.mark.parametrize("recipe", scenes.RECIPES)
@pytest.mark.parametrize("count", [1, 4, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_owner_boxes_visible_and_colours_agree(characters, recipe, count, seed):
    """Each character is drawn alone; its ink, cut by those that come later, must be what the scene says."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randint(high, (2, count), generator=generator) for high in (characters.classes, 20)]
    numbers = torch.rand(2, count, scenes.NUMBERS, generator=generator, dtype=torch.float64)
    found = scenes.compose(characters, *made, numbers, recipe=recipe)
    assert (found.images.dtype, found.owner.dtype, found.classes.dtype) == (torch.uint8, torch.int16, torch.int64)
    for scene in range(2):
        owner = torch.full((96, 96), -1)
        inks = [ink_alone(characters, made, numbers, scene, place, recipe) for place in range(count)]
        for place, ink in enumerate(inks):
            owner[ink] = place
        assert torch.equal(found.owner[scene].long(), owner)
        for place, ink in enumerate(inks):
            rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
            box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert found.boxes[scene, place].tolist() == [float(edge) for edge in box]
            seen = (owner == place).sum() / ink.sum()
            assert found.visible[scene, place] == pytest.approx(seen.item())
            colours = found.images[scene][:, owner == place]
            assert (colours == colours[:, :1]).all()
            assert ink.sum() >= scenes.LEAST
        assert not found.images[scene][:, owner < 0].any()


def test_a_scene_is_the_same_in_any_company_and_from_one_seed(characters):
    generator = torch.Generator().manual_seed(5)
    classes = torch.randint(characters.classes, (9, 12), generator=generator)
    samples = torch.randint(20, (9, 12), generator=generator)

    def drawn(parts):
        generator = torch.Generator().manual_seed(7)
        pairs = zip(classes.split(parts), samples.split(parts), strict=True)
        return [scenes.draw(characters, *pair, generator=generator, recipe="grey") for pair in pairs]

    together = drawn(9)[0]
    for parts in (1, 4):
        some_at_once = drawn(parts)
        for field in ("images", "owner", "boxes", "visible"):
            assert torch.equal(torch.cat([getattr(one, field) for one in some_at_once]), getattr(together, field))


def test_a_named_target_is_always_seen_and_keeps_its_class(characters):
    target = torch.arange(30)
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(150).repeat(30, 1)
    samples = torch.zeros_like(classes)
    found = scenes.draw(characters, classes, samples, generator=generator, recipe="grey", target=target)
    assert (found.masks.sum((1, 2)) >= scenes.LEAST).all()
    assert torch.equal(found.classes.gather(1, found.target.unsqueeze(1)).squeeze(1), target)
    assert (found.classes.sort(1).values == classes).all(), "a character was lost when two changed places"
    changed = found.target != target
    assert changed.any()
    assert (found.target[changed] == 149).all()
    assert not scenes.draw(characters, classes[:2], samples[:2], generator=generator).masks.any()


def test_places_without_a_character_stay_empty(characters):
    classes = torch.tensor([[3, 5, -1, -1], [1, 2, 4, 6]])
    found = scenes.draw(characters, classes, torch.zeros_like(classes), generator=torch.Generator().manual_seed(0))
    assert found.owner[0].max() == 1
    assert not found.boxes[0, 2:].any()
    assert not found.visible[0, 2:].any()
    assert found.visible[1].any()


def test_the_recipes_are_the_published_ones():
    how = scenes.RECIPES["published"]
    assert (how.rotation, how.shear, how.scale, how.target_last, how.channels) == (20, 10, 2, True, 3)
    assert how.same_picture, "as in the published code"
    grey = scenes.RECIPES["grey"]
    assert (grey.target_last, grey.same_picture, grey.channels) == (False, False, 1)
    assert scenes.LEVELS == (4, 8, 16, 32, 64, 128, 256)


def test_turns_shears_and_scales_fill_their_ranges():
    numbers = torch.rand(20000, scenes.NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = scenes.linear_maps(numbers, scenes.RECIPES["published"])
    scales = linear.square().sum(1).sqrt()  # the lengths of both axes
    assert scales.min() == pytest.approx(0.5, abs=0.01)
    assert scales.max() == pytest.approx(2, abs=0.01)
    assert scales.log2().mean().abs() < 0.02
    x_axis, y_axis = (torch.atan2(-linear[:, 1, 0], linear[:, 0, 0]), torch.atan2(linear[:, 0, 1], linear[:, 1, 1]))
    turn, shear = ((x_axis + y_axis) / 2).rad2deg(), ((x_axis - y_axis) / 2).rad2deg()
    for found, most in ((turn, 20), (shear, 10)):
        assert found.abs().max() <= most + 1e-6
        assert found.std() == pytest.approx(most / 3**0.5, rel=0.03)  # of a uniform distribution


def test_a_drawing_stands_in_the_middle_and_its_mask_is_its_ink(characters):
    numbers = torch.rand(40, scenes.NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images, masks = scenes.drawings(characters, torch.arange(40), torch.zeros(40, dtype=torch.int64), numbers)
    assert (images.shape, masks.shape) == ((40, 3, 32, 32), (40, 32, 32))
    assert torch.equal(images.amax(1) > 0, masks)
    for mask in masks:
        for lines in (mask.any(0), mask.any(1)):
            there = lines.nonzero().flatten()
            assert abs(int(there[0]) + int(there[-1]) - 31) <= 1


def test_scenes_of_32_characters_are_drawn_about_as_fast_as_warps_of_their_canvases(characters):
    """On a quiet core a hundred take under a second; the bar is three times what was measured."""
    canvases = torch.rand(100, 3, 32, 32)
    grid = torch.rand(100, 32, 32, 2) * 2 - 1

    def warps() -> None:
        for _ in range(200):
            torch.nn.functional.grid_sample(canvases, grid, align_corners=False)

    times = speed.on_one_thread(lambda: speed.ratio(lambda: some(characters, 32, number=100), warps))
    assert times < 15


def test_splits_share_no_character():
    train, val, test = (set(datasets.load("glyphs", split).groups) for split in ("train", "val", "test"))
    assert train.isdisjoint(val | test)
    assert val.isdisjoint(test)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": "coloured"}, r"scenes of 'coloured' are unknown; use one of published, grey"),
        ({"size": 20}, r"scenes of 20 pixels hold no character of 32; give 32 or more"),
        ({"classes": torch.tensor([[0, 9999]])}, r"the classes of a scene are 0 to 9999; give one or more of 0 to 397"),
        ({"classes": torch.tensor([[-1, -1]])}, r"give one or more of 0 to 397 for each scene"),
        ({"samples": torch.tensor([[0, 20]])}, r"has no picture 20; give one it has"),
        ({"samples": torch.tensor([0, 1])}, r"have the shapes \(1, 2\) and \(2,\); give \[scenes, count\] twice"),
    ],
)
def test_bad_input_is_one_clear_line(characters, change, said):
    given = {"classes": torch.tensor([[0, 1]]), "samples": torch.tensor([[0, 0]])} | change
    pair = given.pop("classes"), given.pop("samples")
    with pytest.raises(CourseError, match=said):
        scenes.draw(characters, *pair, generator=torch.Generator(), **given)


def test_pictures_without_ink_and_in_colour_are_refused():
    one = torch.ones(1, dtype=torch.int64)
    blank = ClassImages(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), one, ("blank",), ("x",), "mine", "all")
    colour = ClassImages(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), one, ("blank",), ("x",), "mine", "all")
    zero = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(CourseError, match=r"picture 0 of 'blank' has 0 pixels of ink; a character in a scene needs 8"):
        scenes.draw(blank, zero, zero, generator=torch.Generator())
    with pytest.raises(CourseError, match=r"pictures of mine have 3 channels; scenes are drawn of characters in one"):
        scenes.draw(colour, zero, zero, generator=torch.Generator())
