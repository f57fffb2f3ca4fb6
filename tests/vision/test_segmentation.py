"""Segmentation: the metric against torchmetrics and by hand, the learners against what is known, tasks, saving."""

import dataclasses

import pytest
import torch
from torchmetrics.functional.classification import binary_jaccard_index
from torchmetrics.segmentation import MeanIoU

from mlcourse import datasets, learners
from mlcourse.datasets import ClassImages, scenes
from mlcourse.errors import CourseError
from mlcourse.evaluation import compare, evaluate
from mlcourse.networks import unet
from mlcourse.training import train
from mlcourse.vision import segmentation
from mlcourse.vision.segmentation import DEFINITIONS, SceneTasks

SMALL = (8, 8, 16)


@pytest.fixture(scope="module")
def characters():
    return datasets.load("glyphs", "test")


def small_unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return segmentation.ConditionedUNet(unet.ConditionedUNet(widths=SMALL))


def small_prototypes(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return segmentation.MaskedPrototypes(unet.UNet(widths=SMALL, out=8), **options)


# ------------------------------------------------------------------ tasks


@pytest.mark.parametrize("recipe", scenes.RECIPES)
def test_tasks_have_the_shapes_they_promise_and_their_masks_are_those_of_the_scenes(characters, recipe):
    source = SceneTasks(characters, characters_per_scene=(4, 9), recipe=recipe, shot=2, scenes=3)
    batch, drawn = source.with_scenes(6, torch.Generator().manual_seed(0))
    channels = scenes.RECIPES[recipe].channels
    assert batch.support_x.shape == (6, 2, channels, 32, 32)
    assert (batch.support_y.shape, batch.support_y.dtype) == ((6, 2, 32, 32), torch.bool)
    assert batch.query_x.shape == (6, 3, channels, 96, 96)
    assert torch.equal(batch.query_y.flatten(0, 1), drawn.masks)
    assert torch.equal(batch.query_y.flatten(0, 1), drawn.owner == drawn.target.view(-1, 1, 1))
    assert torch.equal(batch.query_x.flatten(0, 1), drawn.images.float() / 255)
    assert (batch.query_y.sum((2, 3)) >= scenes.LEAST).all()
    assert torch.equal(batch.support_x.amax(2) > 0, batch.support_y)
    counts = (drawn.classes >= 0).sum(1)
    assert set(counts.tolist()) == {4, 9}
    assert torch.equal(counts.view(6, 3)[:, :1].expand(-1, 3), counts.view(6, 3)), "a task has one level"
    if recipe == "published":
        assert torch.equal(drawn.target, counts - 1), "the target is drawn last"
        assert (drawn.visible.gather(1, drawn.target.unsqueeze(1)) == 1).all()
    else:
        assert len(set((drawn.target / counts).tolist())) > 3, "the target stands anywhere in the order"


def test_no_distractor_is_of_the_target_s_class(characters):
    few = characters.select(range(3))
    batch, drawn = SceneTasks(few, characters_per_scene=20).with_scenes(40, torch.Generator().manual_seed(0))
    of_target = drawn.classes == batch.classes
    assert (of_target.sum(1) == 1).all()
    assert torch.equal(of_target.long().argmax(1), drawn.target)
    assert set(drawn.classes.flatten().tolist()) == {0, 1, 2}


def test_a_scene_shows_the_picture_of_the_drawing_or_another_one():
    """Pictures are bars of unlike lengths: the length tells which picture of its class was drawn."""
    images = torch.zeros(12, 1, 28, 28, dtype=torch.uint8)
    for number in range(12):
        images[number, 0, 8:20, 2 : 5 + 2 * (number % 6)] = 255
    bars = ClassImages(images, torch.tensor([6, 6]), ("a", "b"), ("x", "x"), "bars", "all")

    def lengths(**options):
        source = SceneTasks(bars, characters_per_scene=1, **options)
        calm = dataclasses.replace(scenes.RECIPES["grey"], rotation=0, shear=0, scale=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(scenes.RECIPES, source.recipe, calm)
            batch = source.sample(40, torch.Generator().manual_seed(0))
        return [masks.any(-2).sum(-1).flatten() for masks in (batch.support_y, batch.query_y)]

    shown, hidden = lengths(same_picture=False)
    assert (shown != hidden).all()
    shown, hidden = lengths(same_picture=True)
    assert torch.equal(shown, hidden)
    assert len(set(shown.tolist())) == 6


def test_tasks_are_the_same_in_any_company(characters):
    source = SceneTasks(characters, characters_per_scene=(4, 16), scenes=2)
    together, generator = source.sample(5, torch.Generator().manual_seed(1)), torch.Generator().manual_seed(1)
    apart = [source.sample(count, generator) for count in (1, 3, 1)]
    for name in ("support_x", "support_y", "query_x", "query_y", "classes"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in apart]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"characters_per_scene": 0}, r"characters_per_scene is 0: give an integer of at least 1"),
        ({"characters_per_scene": ()}, r"characters_per_scene is empty"),
        ({"shot": 21}, r"shot 21 with scenes 1 needs 21 pictures per class, but '.*' of glyphs test has 20"),
        ({"shot": 20, "recipe": "grey"}, r"shot 20 with scenes 1 needs 21 pictures per class"),
        ({"recipe": "blue"}, r"scenes of 'blue' are unknown"),
    ],
)
def test_bad_requests_are_one_clear_line(characters, options, said):
    with pytest.raises(CourseError, match=said):
        SceneTasks(characters, **options)


# ------------------------------------------------------------------ intersection over union


def masks(seed, count=7):
    """Random masks, among them empty and full ones."""
    generator = torch.Generator().manual_seed(seed)
    density = torch.tensor([0, 0.02, 0.5, 1, 0.3, 0, 0.9])[:count]
    return torch.rand(count, 6, 5, generator=generator) < density.view(-1, 1, 1)


@pytest.mark.parametrize("seed", range(4))
def test_iou_is_that_of_torchmetrics_also_for_empty_masks(seed):
    prediction, target = masks(seed).roll(seed, 0), masks(seed + 10)
    found = segmentation.intersection_over_union(prediction, target)
    wanted = [binary_jaccard_index(p.int(), t.int(), zero_division=1.0) for p, t in zip(prediction, target)]
    assert found.tolist() == pytest.approx([float(one) for one in wanted], abs=1e-7)
    background = segmentation.intersection_over_union(prediction, target, of="background")
    turned = segmentation.intersection_over_union(~prediction, ~target)
    assert torch.equal(background, turned)


def scores_of(prediction, target):
    logits = torch.where(prediction, 3.0, -3.0).unsqueeze(1)
    batch = type("Batch", (), {"query_y": target.unsqueeze(1)})
    return segmentation.EveryCharacter().score(logits, batch)


@pytest.mark.parametrize("seed", range(4))
def test_the_four_definitions_are_those_of_torchmetrics(seed):
    prediction, target = masks(seed)[1:5], masks(seed + 10)[1:5]
    found = {name: value for name, (value, _) in segmentation.by_definition(scores_of(prediction, target)).items()}
    flat = [
        (one.flatten().int(), other.flatten().int()) for one, other in ((prediction, target), (~prediction, ~target))
    ]
    pooled = [float(binary_jaccard_index(*pair)) for pair in flat]
    images = MeanIoU(num_classes=2, include_background=True, input_format="index")
    both = float(torch.stack([images(p[None].long(), t[None].long()) for p, t in zip(prediction, target)]).mean())
    foreground = [float(binary_jaccard_index(p.int(), t.int(), zero_division=1.0)) for p, t in zip(prediction, target)]
    assert found == pytest.approx(
        {
            "foreground, per image": sum(foreground) / 4,
            "foreground, pooled": pooled[0],
            "foreground and background, per image": both,
            "foreground and background, pooled": sum(pooled) / 2,
        },
        abs=1e-6,
    )
    assert all(one.source for one in DEFINITIONS)


def test_a_class_that_an_image_lacks_counts_one_here_and_is_left_out_by_torchmetrics():
    """As the source of that definition says."""
    prediction = target = torch.zeros(2, 4, 4).bool()
    prediction, target = prediction.clone(), target.clone()
    target[1, :2], prediction[1, 0] = True, True  # 1/2 of the foreground, 8/12 of the background
    name = "foreground and background, per image"
    found = segmentation.by_definition(scores_of(prediction, target))[name][0]
    assert found == pytest.approx((1 + 1 + 1 / 2 + 2 / 3) / 4)
    theirs = MeanIoU(num_classes=2, include_background=True, input_format="index")(prediction.long(), target.long())
    assert float(theirs) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    (source,) = (one.source for one in DEFINITIONS if one.name == name)
    assert "counts 1 here, and is left out of the mean there" in source


def test_iou_by_hand():
    target = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    prediction = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    none = torch.zeros(2, 4).bool()
    assert segmentation.intersection_over_union(prediction, target) == pytest.approx(1 / 3)
    assert segmentation.intersection_over_union(prediction, target, of="background") == pytest.approx(5 / 7)
    assert segmentation.intersection_over_union(none, none) == 1
    assert segmentation.intersection_over_union(none, target) == 0
    assert segmentation.intersection_over_union(target, none) == 0
    with pytest.raises(CourseError, match=r"masks are torch.bool \(2, 4\) and torch.int64 \(2, 4\)"):
        segmentation.intersection_over_union(none, target.long())
    with pytest.raises(CourseError, match=r"there is no IoU of 'sky'; use foreground or background"):
        segmentation.intersection_over_union(none, none, of="sky")


def test_all_background_scores_half_of_one_definition():
    target = torch.zeros(5, 96, 96).bool()
    target[:, 3:5, 4:8] = True
    found = segmentation.by_definition(scores_of(torch.zeros_like(target), target))
    assert found["foreground, per image"][0] == found["foreground, pooled"][0] == 0
    assert found["foreground and background, pooled"][0] == pytest.approx(0.5, abs=0.001)


# ------------------------------------------------------------------ learners


def test_the_loss_is_least_at_the_right_answer_and_its_gradient_is_right():
    target = masks(3)[2:5].unsqueeze(0)
    learner = segmentation.EveryCharacter()
    right = torch.where(target, 20.0, -20.0)
    assert learner.loss(right, target) < 1e-3
    assert learner.loss(-right, target) > 10
    logits = torch.randn(
        1, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda x: learner.loss(x, target), logits)
    with pytest.raises(CourseError, match=r"logits and masks have the shapes"):
        learner.loss(logits, target[:, :2])


def test_the_localisation_loss_is_cross_entropy_over_places():
    mask = torch.zeros(2, 8, 8).bool()
    mask[0, :2, :2] = True  # all in one place of 4×4
    mask[1, 0, :4] = True  # half in one, half in the next
    fit = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    logs = fit.flatten(1).log_softmax(1)
    wanted = -(logs[0, 0] + (logs[1, 0] + logs[1, 1]) / 2) / 2
    assert segmentation.localisation_loss(fit, mask) == pytest.approx(wanted.item(), rel=1e-5)


def test_edges_are_where_neighbours_differ():
    image = torch.zeros(1, 3, 4, 4)
    image[0, 1, 1:3, 1:3] = 0.5
    *_, right, lower = unet.with_edges(image)[0]
    assert right.nonzero().tolist() == [[1, 0], [1, 2], [2, 0], [2, 2]]
    assert torch.equal(lower, right.T)


def test_masked_prototypes_are_the_means_of_the_pixels_in_the_mask():
    features = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    mask[1] = False
    found = segmentation.masked_prototypes(features, mask)
    inside = torch.stack([features[0, i, :, y, x] for i, y, x in mask[0].nonzero().tolist()]).mean(0)
    torch.testing.assert_close(found["foreground"][0], inside)
    torch.testing.assert_close(found["background"][1], features[1].mean((0, 2, 3)))
    assert not found["foreground"][1].any(), "of no pixel"


def test_prototypes_answer_by_the_nearer_cosine(characters):
    learner, batch = small_prototypes().eval(), SceneTasks(characters).sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        logits = learner.predict(state, batch.query_x)
        z = learner.network(batch.query_x.flatten(0, 1))
    for task in range(2):
        for prototype, sign in (("foreground", 1), ("background", -1)):
            cosine = torch.cosine_similarity(z[task], state[prototype][task].view(-1, 1, 1), dim=0)
            logits[task, 0] -= sign * 20 * cosine
    assert logits.abs().max() < 1e-3


def test_the_alignment_loss_goes_the_other_way_round(characters):
    batch = SceneTasks(characters).sample(3, torch.Generator().manual_seed(0))
    whole, without = small_prototypes(), small_prototypes(alignment=0.0)
    loss, metrics = whole.outer_loss(batch)
    plain, _ = without.outer_loss(batch)
    assert loss.item() == pytest.approx(plain.item() + metrics["alignment"], rel=1e-5)
    with torch.no_grad():  # by hand: what was found in the scenes is the support set, the drawings are the queries
        found = whole(batch.support_x, batch.support_y, batch.query_x) > 0
        some = found.flatten(1).any(1)
        assert some.any()
        state = segmentation.masked_prototypes(whole.features(batch.query_x[some]), found[some])
        back = whole.loss(whole.predict(state, batch.support_x[some]), batch.support_y[some])
    assert metrics["alignment"] == pytest.approx(back.item(), rel=1e-4)


@pytest.mark.parametrize("make", [small_unet, small_prototypes])
def test_a_learner_learns_a_few_scenes_by_heart(characters, make):
    torch.manual_seed(0)
    learner = make()
    batch = SceneTasks(characters, characters_per_scene=3).sample(4, torch.Generator().manual_seed(0))
    fixed = type("Fixed", (), {"sample": lambda self, tasks, generator: batch})()
    history = train(learner, fixed, steps=60, tasks=4, rate=1e-2, progress=False)
    assert history.losses[-1] < 0.6 * history.losses[0]


@pytest.mark.parametrize("make", [small_unet, small_prototypes])
def test_a_trained_learner_comes_back_from_its_folder(characters, make, tmp_path):
    learner, source = make(), SceneTasks(characters)
    train(learner, source, steps=2, tasks=2, validation=source, validation_episodes=2, out=tmp_path, progress=False)
    again, batch = learners.load(tmp_path), source.sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = [one.eval()(batch.support_x, batch.support_y, batch.query_x) for one in (learner, again)]
    assert torch.equal(*answers)
    assert answers[0].shape == (2, 1, 96, 96)


def test_the_drawing_matters_to_the_u_net_and_its_colour_does_not(characters):
    learner, batch = small_unet().eval(), SceneTasks(characters).sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        here = learner(batch.support_x, batch.support_y, batch.query_x)
        other = learner(batch.support_x.flip(0), batch.support_y.flip(0), batch.query_x)
        painted = learner(1 - batch.support_x, batch.support_y, batch.query_x)
    assert (here - other).abs().max() > 1e-4
    assert torch.equal(here, painted)


def test_grey_scenes_are_answered_as_scenes_of_equal_colours(characters):
    learner = small_unet().eval()
    batch = SceneTasks(characters, recipe="grey").sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        three = batch.query_x.expand(-1, -1, 3, -1, -1)
        torch.testing.assert_close(learner.predict(state, batch.query_x), learner.predict(state, three))


@pytest.mark.parametrize("make", [small_unet, small_prototypes, segmentation.TemplateMatching])
def test_a_mask_that_marks_nothing_is_refused(characters, make):
    batch = SceneTasks(characters).sample(2, torch.Generator().manual_seed(0))
    with pytest.raises(CourseError, match=r"the mask of a drawing has no pixel, so nothing says what to look for"):
        make().adapt(batch.support_x, torch.zeros_like(batch.support_y))
    with pytest.raises(CourseError, match=r"drawings and masks have the shapes"):
        make().adapt(batch.support_x, batch.support_y[..., 1:])


def test_images_that_a_u_net_does_not_take_are_refused():
    network = unet.ConditionedUNet(widths=SMALL)
    with pytest.raises(CourseError, match=r"images are \(3, 90, 96\) .* sides that are multiples of 8"):
        network(torch.zeros(1, 3, 90, 96), torch.zeros(1, 152))
    with pytest.raises(CourseError, match=r"widths are \(8,\); a U-Net has two levels or more"):
        unet.UNet(widths=(8,))


# ------------------------------------------------------------------ rivals


def test_every_character_takes_all_ink(characters):
    batch, drawn = SceneTasks(characters).with_scenes(3, torch.Generator().manual_seed(0))
    found = segmentation.EveryCharacter()(batch.support_x, batch.support_y, batch.query_x)[:, 0] > 0
    assert torch.equal(found, drawn.owner >= 0)


def test_correlation_is_that_of_the_pixels_in_the_frame():
    generator = torch.Generator().manual_seed(0)
    image, template = torch.rand(2, 12, 11, generator=generator), torch.rand(1, 5, 5, generator=generator)
    frame = torch.zeros(1, 5, 5)
    frame[0, 1:5, 0:4] = 1
    found = segmentation.correlation(image, template, frame)
    inside = frame[0].bool()
    for channel, row, column in ((0, 5, 5), (1, 4, 7), (0, 9, 2)):
        window = image[channel, row - 2 : row + 3, column - 2 : column + 3]
        pair = torch.stack([window[inside], template[0][inside]])
        assert found[channel, 0, row, column] == pytest.approx(torch.corrcoef(pair)[0, 1].item(), abs=1e-4)
    assert not segmentation.correlation(torch.ones(1, 9, 9), template, frame)[0, 0, 3:6, 3:6].any(), "all alike"


def test_template_matching_finds_what_is_not_turned_and_alone_in_its_colour(characters):
    generator = torch.Generator().manual_seed(0)
    source = SceneTasks(characters, characters_per_scene=1, same_picture=True)
    result = evaluate(segmentation.TemplateMatching(), source, episodes=10)
    assert result.value == 1, "all of one colour"
    batch = source.sample(1, generator)
    moved = batch.support_x.roll((4, -3), (-2, -1)), batch.support_y.roll((4, -3), (-2, -1))
    learner = segmentation.TemplateMatching()
    here, there = learner(batch.support_x, batch.support_y, batch.query_x), learner(*moved, batch.query_x)
    assert torch.equal(here, there), "where on its canvas the drawing stands says nothing"


# ------------------------------------------------------------------ evaluation


def test_evaluate_gives_the_foreground_iou_with_an_interval_and_pairs(characters):
    source = SceneTasks(characters, scenes=2)
    every = evaluate(segmentation.EveryCharacter(), source, episodes=12)
    assert every.metric.name == "foreground IoU"
    assert 0.1 < every.value < 0.7
    assert every.ci95 > 0
    assert every.transductive is False
    found = segmentation.by_definition(every.scores)
    assert found["foreground, per image"] == pytest.approx((every.value, every.ci95))
    difference = compare(every, evaluate(small_unet(), source, episodes=12))
    assert difference.episodes == 12


def test_the_table_of_methods_gives_learners_by_name():
    for name, method in segmentation.METHODS.items():
        learner = segmentation.build(name, seed=0)
        assert isinstance(learner, segmentation.Segmenter)
        assert (learner.trains_on == "nothing") == (not method.recipes)
        learners.check_saving(learner)
    same = [segmentation.build("untrained-unet", seed=3).state_dict() for _ in range(2)]
    assert all(torch.equal(value, same[1][name]) for name, value in same[0].items())
    with pytest.raises(CourseError, match=r"method 'maskrcnn' is unknown; use one of unet, prototypes"):
        segmentation.build("maskrcnn")
    with pytest.raises(CourseError, match=r"method 'every-character' is unknown or has nothing to train"):
        segmentation.recipe("every-character", "short")
    with pytest.raises(CourseError, match=r"recipe 'long' is unknown for unet; use one of smoke, short"):
        segmentation.recipe("unet", "long")
    with pytest.raises(CourseError, match=r"published scenes have 3 channels, but the learner was trained on 1"):
        segmentation.check_scenes(segmentation.build("unet", scenes="grey"), "published")
