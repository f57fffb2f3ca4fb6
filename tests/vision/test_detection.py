"""Detection: what tasks hold, what detectors answer, their losses against plain ones, one line for bad input."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou

from mlcourse import datasets, learners, places
from mlcourse.datasets.scenes import INK, LEAST
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.networks.detector import AWAY, STRIDE, DetectorTrunk, likeness, middles
from mlcourse.training import train
from mlcourse.vision import detection
from mlcourse.vision.detection import CrowdTasks, DetectionTasks
from mlcourse.vision.segmentation import colour_groups

TRAINED = ("matched-boxes", "correlation", "fine-tuning")


@pytest.fixture(scope="module")
def characters():
    return datasets.load("glyphs", "test")


@pytest.fixture(scope="module")
def episode(characters):
    return DetectionTasks(characters, characters_per_scene=5, scenes=4).sample(3, torch.Generator().manual_seed(0))


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def small(method, seed=0):
    """A detector with a small trunk, in float64."""
    torch.manual_seed(seed)
    encoder = learners.load(places.data() / "checkpoints" / "segmentation").network
    trunk = DetectorTrunk(3, widths=(4, 4, 6, 8), channels=8, features=256)
    made = {
        "correlation": lambda: detection.CorrelationDetector(trunk, encoder),
        "fine-tuning": lambda: detection.FineTunedDetector(trunk, classes=400),
        "matched-boxes": lambda: detection.build("matched-boxes", seed=seed),
    }[method]()
    return made.double()


# ------------------------------------------------------------------ tasks


@pytest.mark.parametrize("recipe", ["published", "grey"])
def test_the_box_is_around_the_target_and_nan_where_it_is_absent(characters, recipe):
    source = DetectionTasks(characters, characters_per_scene=6, scenes=3, recipe=recipe)
    batch, scenes = source.with_scenes(8, drawn())
    assert batch.query_y.shape == (8, 3, 1, 4)
    boxes, absent = batch.query_y.flatten(0, 2), 0
    for number, (box, place) in enumerate(zip(boxes, scenes.target.tolist())):
        target = int(batch.classes[number // 3, 0])
        assert (scenes.classes[number] == target).sum() == (place >= 0)
        if place < 0:
            assert box.isnan().all()
            absent += 1
            continue
        assert scenes.classes[number, place] == target
        row, column = (scenes.owner[number] == place).nonzero().unbind(1)
        x0, y0, x1, y1 = box.tolist()
        assert x0 <= column.min() <= column.max() < x1
        assert y0 <= row.min() <= row.max() < y1
        if recipe == "published":  # all of it is seen
            assert (x0, y0, x1, y1) == (column.min(), row.min(), column.max() + 1, row.max() + 1)
    assert 4 < absent < 20
    assert (scenes.classes >= 0).sum(1).unique().tolist() == [6], "their number tells nothing"


@pytest.mark.parametrize(("absent", "share"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.25)])
def test_the_share_without_the_target(characters, absent, share):
    batch = DetectionTasks(characters, characters_per_scene=2, absent=absent).sample(200, drawn())
    assert batch.query_y.isnan().all(-1).double().mean().item() == pytest.approx(share, abs=0.1 * (0 < share < 1))


@pytest.mark.parametrize("same", [True, False])
def test_tasks_are_the_same_drawn_together_or_not_and_another_support_draw_changes_the_drawings_alone(characters, same):
    source = DetectionTasks(characters, characters_per_scene=4, same_picture=same, shot=2)
    together, generator = source.sample(4, drawn()), drawn()
    alone = [source.sample(1, generator) for _ in range(4)]
    assert all(torch.equal(together.query_x[i], alone[i].query_x[0]) for i in range(4))
    assert all(torch.equal(together.support_x[i], alone[i].support_x[0]) for i in range(4))
    again = DetectionTasks(characters, characters_per_scene=4, same_picture=same, shot=2, support_draw=3).sample(
        4, drawn()
    )
    assert torch.equal(again.query_x, together.query_x)
    assert torch.equal(again.query_y.nan_to_num(-1), together.query_y.nan_to_num(-1))
    assert torch.equal(again.classes, together.classes)
    assert not any(torch.equal(again.support_y[i], together.support_y[i]) for i in range(4))


def test_a_crowd_has_a_drawing_and_a_box_of_each_of_its_characters(characters):
    batch = CrowdTasks(characters, characters_per_scene=7).sample(5, drawn())
    assert batch.support_x.shape == (5, 7, 3, 32, 32)
    assert batch.query_y.shape == (5, 1, 7, 4)
    masks, scene = colour_groups(batch.query_x.flatten(0, 1), LEAST)
    regions = detection.boxes_of(masks)
    whole = 0
    for number, boxes in enumerate(batch.query_y.squeeze(1)):
        seen = boxes[~boxes.isnan().any(1)]
        assert torch.equal(boxes[-1], seen[-1]), "what is drawn last is seen"
        whole += int((box_iou(seen, regions[scene == number]) == 1).any(1).sum())
    assert whole > 15


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("method", detection.METHODS)
def test_every_detector_answers_sorted_boxes_within_the_scene(method, episode):
    learner = detection.build(method, seed=0)
    answers = learner.detect(episode)
    assert len(answers) == 12
    for one in answers:
        assert (one.scores.diff() <= 0).all()
        assert (one.boxes >= 0).all()
        assert (one.boxes <= 96).all()
        overlap = box_iou(one.boxes, one.boxes).fill_diagonal_(0)
        assert not (overlap > 0.5).any()
    assert any(len(one) for one in answers)
    state = learner.adapt(episode.support_x[:1], episode.support_y[:1])
    alone = learner.detect(state, episode.query_x[0])
    assert [len(one) for one in alone] == [len(one) for one in answers[:4]]
    result = evaluate(learner, DetectionTasks(datasets.load("glyphs", "val"), characters_per_scene=3), episodes=6)
    assert 0 <= result.value <= 1
    assert result.transductive is False


def test_every_box_finds_every_character_that_is_seen(episode):
    learner = detection.EveryBox()
    for found, truth in zip(learner.detect(episode), episode.query_y.flatten(0, 1)):
        assert 1 <= len(found) <= 5
        if not truth.isnan().any():
            assert box_iou(found.boxes, truth).max() > 0.5


def test_the_matched_score_is_the_log_odds_among_the_boxes_and_none(episode):
    learner = small("matched-boxes").eval()
    batch = episode.to(dtype=torch.float64)
    state = learner.adapt(batch.support_x, batch.support_y)
    answers = learner.detect(state, batch.query_x)
    masks, scene = colour_groups(batch.query_x.flatten(0, 1), LEAST)
    for number, found in enumerate(answers):
        z = learner.groups.embed(masks[scene == number]).detach()
        logits = z @ state["prototype"][number // 4].detach() / learner.groups.log_temperature.exp().detach()
        share = torch.cat(
            [logits, learner.none.detach().view(1) / learner.groups.log_temperature.exp().detach()]
        ).softmax(0)[:-1]
        expected = (share / (1 - share)).log().sort(descending=True).values
        assert found.scores[0].item() == pytest.approx(expected[0].item())
        assert all((expected - one).abs().min() < 1e-9 for one in found.scores)


@pytest.mark.parametrize("method", TRAINED)
def test_of_several_drawings_the_mean_counts(method, characters):
    learner = detection.build(method, seed=0).eval()
    batch = DetectionTasks(characters, characters_per_scene=2, shot=3).sample(2, drawn())
    adapted = learner.adapt(batch.support_x, batch.support_y)
    both = torch.cat([batch.support_x[:1, :1]] * 2, 1), torch.cat([batch.support_y[:1, :1]] * 2, 1)
    twice, once = learner.adapt(*both), learner.adapt(batch.support_x[:1, :1], batch.support_y[:1, :1])
    for name, value in adapted.items():
        assert value.shape == (2, 256)
        assert torch.allclose(twice[name], once[name], atol=1e-5), "the same drawing twice says no more"
        assert not torch.allclose(value[:1], once[name], atol=1e-3)


def test_the_matched_loss_is_the_cross_entropy_with_none(episode):
    learner = small("matched-boxes").eval()
    batch = episode.to(dtype=torch.float64)
    loss = learner.outer_loss(batch)[0]
    masks, scene = colour_groups(batch.query_x.flatten(0, 1), LEAST)
    losses = []
    for number, truth in enumerate(batch.query_y.flatten(0, 1)):
        mine = masks[scene == number]
        prototype = learner.groups.embed(batch.support_y[number // 4])[0]
        logits = learner.groups.embed(mine) @ prototype / learner.groups.log_temperature.exp()
        overlap = box_iou(detection.boxes_of(mine), truth.float()).nan_to_num(0).squeeze(1)
        none = learner.none.view(1) / learner.groups.log_temperature.exp()
        target = overlap.argmax() if overlap.max() >= 0.5 else torch.tensor(len(mine))
        losses.append(F.cross_entropy(torch.cat([logits, none]).unsqueeze(0), target.view(1)))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)


def test_the_trunk_has_a_place_for_every_four_by_four_pixels():
    trunk = DetectorTrunk(3, widths=(4, 4, 6, 8), channels=8, features=5).double()
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    there, boxes, features = trunk(x)
    assert (there.shape, boxes.shape, features.shape) == ((2, 8, 12), (2, 8, 12, 4), (2, 8, 12, 5))
    assert features.norm(dim=3).allclose(torch.ones(2, 8, 12, dtype=torch.float64))
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert torch.allclose(centre[0], middles(8, 12, like=centre))
    assert middles(8, 12, like=centre)[2, 3].tolist() == [3.5 * STRIDE, 2.5 * STRIDE]


def test_likeness_says_where_ink_has_its_own_colour():
    x = torch.rand(2, 3, 20, 17, generator=drawn()).mul(3).round() / 3  # colours that come again
    x[:, :, ::3] = 0
    found, plain = likeness(x), torch.zeros(2, 4 * len(AWAY), 20, 17)
    for number in range(4 * len(AWAY)):
        away = AWAY[number // 4]
        down, right = ((0, away), (0, -away), (away, 0), (-away, 0))[number % 4]
        for row in range(20):
            for column in range(17):
                i, j = row + down, column + right
                if 0 <= i < 20 and 0 <= j < 17:
                    alike = (x[:, :, row, column] == x[:, :, i, j]).all(1) & (x[:, :, row, column] > 0).any(1)
                    plain[:, number, row, column] = alike.float()
    assert torch.equal(found, plain)


@pytest.mark.parametrize("method", ["correlation", "fine-tuning"])
def test_gradients_of_the_crowd_loss_against_differences(method, characters):
    learner = small(method).eval()
    batch = CrowdTasks(characters, characters_per_scene=4).sample(3, drawn(2)).to(dtype=torch.float64)
    loss, metrics = learner.outer_loss(batch)
    assert 0 <= metrics["named"] <= 1
    loss.backward()
    generator = drawn(5)
    params = [one for one in learner.parameters() if one.requires_grad]
    assert all(one.grad is not None and one.grad.isfinite().all() for one in params)
    along = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in params]
    slope = sum((one.grad * way).sum() for one, way in zip(params, along)).item()
    ends = []
    with torch.no_grad():
        for step in (1e-8, -2e-8):
            for one, way in zip(params, along):
                one += step * way
            ends.append(learner.outer_loss(batch)[0].item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-8, rel=1e-3)


def test_the_correlation_is_a_depthwise_one_with_a_kernel_of_one_place():
    learner = small("correlation")
    features = F.normalize(torch.randn(2, 3, 4, 256, dtype=torch.float64, generator=drawn()), dim=3)
    kernel = F.normalize(torch.randn(2, 1, 256, dtype=torch.float64, generator=drawn(1)), dim=2)
    there = torch.zeros(2, 3, 4, dtype=torch.float64)
    maps = F.conv2d(features.permute(0, 3, 1, 2).reshape(1, 512, 3, 4), kernel.reshape(512, 1, 1, 1), groups=512).view(
        2, 256, 3, 4
    )
    expected = (maps * learner.weight.view(1, -1, 1, 1)).sum(1) + learner.bias + math.log(0.5)
    assert torch.allclose(learner.correlated(kernel, features, there).squeeze(1), expected)


@pytest.mark.parametrize("method", TRAINED)
def test_a_step_of_training_lowers_the_loss_and_a_saved_one_answers_alike(method, characters, tmp_path):
    learner = detection.build(method, seed=0, known=characters)
    source = detection.tasks_for(method, characters, characters_per_scene=4)
    validation = detection.Precision(DetectionTasks(characters, characters_per_scene=4, absent=0.2), 8)
    history = train(
        learner, source, steps=8, tasks=4, rate=2e-3, validation=validation, validate_every=8, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    assert sum(history.losses[-3:]) < sum(history.losses[:3])
    again = learners.load(tmp_path / "run")
    batch = DetectionTasks(characters, characters_per_scene=3).sample(2, drawn(3))
    for one, other in zip(learner.detect(batch), again.detect(batch)):
        assert torch.equal(one.boxes, other.boxes)


def test_fine_tuning_draws_the_new_class_towards_its_drawing(characters):
    learner = detection.build("fine-tuning", seed=0, known=characters.select(range(5))).eval()
    batch = DetectionTasks(characters, characters_per_scene=3).sample(3, drawn())
    learner.known.data[:3] += F.normalize(learner.looks(batch.support_x, batch.support_y).detach().mean(1), dim=1)
    z = F.normalize(learner.looks(batch.support_x, batch.support_y).detach().mean(1), dim=1)
    assert torch.allclose(learner.adapt(batch.support_x, batch.support_y, inner_steps=0)["weight"], z, atol=1e-5)
    state = learner.adapt(batch.support_x, batch.support_y)
    known = F.normalize(learner.known.detach(), dim=1)
    assert ((z - state["weight"]).norm(dim=1) > 1e-3).all()
    assert (state["weight"] @ known.T).logsumexp(1).mean() < (z @ known.T).logsumexp(1).mean()


def test_a_detector_starts_from_an_embedding_of_segmentation(characters):
    groups = learners.load(places.data() / "checkpoints" / "segmentation")
    batch = DetectionTasks(characters, characters_per_scene=3, absent=0).sample(30, drawn())
    learner = detection.build("matched-boxes", seed=0, start=groups)
    assert torch.equal(learner.groups.log_temperature, groups.log_temperature)
    scores = learner.score(learner.predict(learner.adapt(batch.support_x, batch.support_y), batch.query_x), batch)
    assert scores["hits"].mean() > 0.85
    other = detection.build("correlation", seed=0, start=groups)
    assert torch.equal(other.encoder.learner.blocks[0].conv.weight, groups.network.blocks[0].conv.weight)
    known = characters.select(range(4))
    third = detection.build("fine-tuning", seed=0, start=groups, known=known)
    z = groups.embed(known.images[known.first[2] : known.first[2] + 5].squeeze(1) >= 255 * INK).mean(0)
    assert torch.allclose(third.known[2], F.normalize(z, dim=0), atol=1e-5)
    for method in ("fine-tuning", "every-box"):
        with pytest.raises(CourseError, match=f"{method} has no use for a start"):
            detection.build(method, start=groups)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("method", detection.METHODS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scenes_and_drawings_that_are_nan_are_refused_in_one_line(method, value, episode):
    learner = detection.build(method, seed=0)
    bad = episode.map(lambda name, x: x.clone())
    bad.query_x[1, 2, 0, 5, 5] = value
    with pytest.raises(CourseError, match=r"1 of the .* values of the scenes are nan or infinite"):
        learner.detect(bad)
    bad = episode.map(lambda name, x: x.clone())
    bad.support_x[1, 0, 0, 3, 3] = value
    with pytest.raises(CourseError, match=r"1 of the .* values of the .*drawings are nan or infinite"):
        learner.detect(bad)


@pytest.mark.parametrize("method", TRAINED)
def test_training_refuses_what_is_no_box_of_its_scene(method, characters):
    learner = detection.build(method, seed=0, known=characters)
    source = detection.tasks_for(method, characters, characters_per_scene=3)
    batch = source.sample(2, drawn())
    for box, said in (
        ((90.0, 5.0, 97.0, 9.0), "lies outside its scene of 96×96"),
        ((-1.0, 5.0, 7.0, 9.0), "lies outside its scene of 96×96"),
        ((4.0, 4.0, 4.0, 9.0), "has no area"),
        ((9.0, 4.0, 4.0, 9.0), "x1 < x0 or y1 < y0"),
        ((9.0, 4.0, math.nan, 9.0), "not finite"),
    ):
        bad = batch.map(lambda name, x: x.clone())
        bad.query_y[0, 0, 0] = torch.tensor(box)
        with pytest.raises(CourseError, match=said):
            learner.outer_loss(bad)


def test_one_target_does_not_train_what_needs_a_crowd(episode):
    with pytest.raises(CourseError, match=r"train on detection\.CrowdTasks"):
        detection.build("correlation", seed=0).outer_loss(episode)


def test_a_trunk_and_an_encoder_of_unlike_sizes_and_classes_that_are_too_many(characters):
    encoder = learners.load(places.data() / "checkpoints" / "segmentation").network
    with pytest.raises(CourseError, match="the encoder gives 256 numbers for a drawing, the trunk 64"):
        detection.CorrelationDetector(DetectorTrunk(3, features=64), encoder)
    learner = detection.FineTunedDetector(DetectorTrunk(3), classes=2)
    with pytest.raises(CourseError, match="this detector names 2"):
        learner.outer_loss(CrowdTasks(characters, characters_per_scene=3).sample(2, drawn()))


def test_parameters_that_are_nan_are_no_empty_answer(episode):
    learner = detection.build("matched-boxes", seed=0)
    learner.none.data.fill_(math.nan)
    with pytest.raises(CourseError, match="not finite"):
        learner.detect(episode)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"shot": 0}, "shot is 0"),
        ({"shot": 21}, "these tasks need 21 pictures per class"),
        ({"absent": 1.5}, "absent is 1.5; give a share"),
        ({"absent": math.nan}, "absent is nan"),
        ({"recipe": "blue"}, "scenes of 'blue' are unknown"),
        ({"characters_per_scene": 0}, "characters_per_scene is 0"),
        ({"support_draw": -1}, "support_draw is -1"),
        ({"scenes": 20, "same_picture": False}, "these tasks need 21 pictures per class"),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be_drawn_are_one_line(characters, about, said):
    with pytest.raises(CourseError, match=said):
        DetectionTasks(characters, **about)
    with pytest.raises(CourseError, match="has 1 class; a scene needs 2 or more"):
        DetectionTasks(characters.select([0]))


def test_scenes_of_a_wrong_shape_or_type(episode):
    learner = detection.build("every-box")
    state = learner.adapt(episode.support_x, episode.support_y)
    with pytest.raises(CourseError, match=r"scenes are torch\.float32"):
        learner.detect(state, episode.query_x[0, 0])
    with pytest.raises(CourseError, match=r"scenes are torch\.uint8"):
        learner.detect(state, (255 * episode.query_x).byte())
    with pytest.raises(CourseError, match="detect needs scenes"):
        learner.detect(state)


# ------------------------------------------------------------------ what an engineer broke


def test_a_row_of_nan_beside_a_true_box_changes_nothing(characters):
    batch = DetectionTasks(characters, characters_per_scene=5, absent=0.0).sample(4, drawn())
    more = batch.map(lambda name, value: F.pad(value, (0, 0, 0, 2), value=math.nan) if name == "query_y" else value)
    learner = detection.build("matched-boxes", seed=0)
    losses = [learner.outer_loss(one)[0].detach() for one in (batch, more)]
    torch.testing.assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize("method", [*TRAINED, "pixel-boxes", "template-boxes"])
def test_scenes_of_other_tasks_than_were_taught_are_one_line(episode, method):
    learner = small(method) if method in TRAINED else detection.build(method).double()
    batch = episode.map(lambda name, value: value.double() if value.is_floating_point() else value)
    state = learner.adapt(batch.support_x, batch.support_y)
    with pytest.raises(CourseError, match="the queries are of 1 tasks, but 3 tasks were taught"):
        learner.detect(state, batch.query_x[2])


@pytest.mark.parametrize("method", ["correlation", "fine-tuning"])
def test_scenes_of_another_precision_than_the_weights_are_one_line(characters, episode, method):
    learner = small(method).float()
    state = learner.adapt(episode.support_x, episode.support_y)
    says = "are torch.float64, but the network's weights are torch.float32: bring both to one"
    with pytest.raises(CourseError, match=f"scenes {says}"):
        learner.detect(state, episode.query_x.double())
    crowd = CrowdTasks(characters, characters_per_scene=4).sample(2, drawn()).to(dtype=torch.float64)
    with pytest.raises(CourseError, match=f"scenes {says}"):
        learner.outer_loss(crowd)
    if method == "fine-tuning":
        with pytest.raises(CourseError, match=f"drawings {says}"):
            learner.adapt(episode.support_x.double(), episode.support_y)


def test_every_box_is_every_box_in_a_crowd(characters):
    batch = DetectionTasks(characters, characters_per_scene=40).sample(2, drawn())
    for scene, found in zip(batch.query_x.flatten(0, 1), detection.build("every-box").detect(batch), strict=True):
        masks, _ = colour_groups(scene.unsqueeze(0), LEAST)
        assert len(masks) > detection.MOST
        assert len(found) > detection.MOST


def test_pixel_boxes_score_by_the_cosine_of_the_shapes(characters):
    """Written as a loop: the box of each colour, its framed mask without its mean, the cosine with the drawing's."""
    batch = DetectionTasks(characters, characters_per_scene=4, absent=0.0).sample(3, drawn())
    learner = detection.build("pixel-boxes")
    for task, found in enumerate(learner.detect(batch)):
        masks, _ = colour_groups(batch.query_x[task], LEAST)
        shapes = [detection.framed(one[None], 28).flatten().double() for one in (*masks, batch.support_y[task, 0])]
        centred = [shape - shape.mean() for shape in shapes]
        wanted = [float(F.cosine_similarity(shape, centred[-1], dim=0)) for shape in centred[:-1]]
        assert max(wanted) == pytest.approx(float(found.scores[0]), abs=1e-6)
        best = detection.boxes_of(masks)[torch.tensor(wanted).argmax()]
        torch.testing.assert_close(found.boxes[0], best)
