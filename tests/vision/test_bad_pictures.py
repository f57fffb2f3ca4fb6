"""Pictures that say nothing are refused in one line, by every learner of masks: nan, bytes, other shapes, devices.

A learner that asks which pixels are ink finds none in a scene of nan. Without these checks it would answer as if the
scene were empty, and nobody would know.
"""

import pytest
import torch

from mlcourse import datasets
from mlcourse.datasets import label_maps
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.networks import conv4, unet
from mlcourse.vision import frozen, segmentation
from mlcourse.vision.photos import VOID, PhotoTasks

SMALL = (8, 8, 16)

# Learners of drawings and scenes, of photos, and of maps of features.
OF_SCENES = {
    segmentation.ConditionedUNet: lambda: segmentation.ConditionedUNet(unet.ConditionedUNet(widths=SMALL)),
    segmentation.MaskedPrototypes: lambda: segmentation.MaskedPrototypes(unet.UNet(widths=SMALL, out=8)),
    segmentation.EveryCharacter: segmentation.EveryCharacter,
    segmentation.TemplateMatching: lambda: segmentation.TemplateMatching(scales=(1.0,), turns=(0.0,)),
    segmentation.ColourGroups: lambda: segmentation.ColourGroups(conv4.Conv4(channels=4, normalisation="running")),
}
OF_PHOTOS = {
    frozen.FrozenPrototypes: lambda: frozen.FrozenPrototypes(pretrained=False),
    frozen.TrainedPrototypes: lambda: frozen.TrainedPrototypes(width=4),
}
OF_MAPS = {frozen.MapPrototypes: frozen.MapPrototypes, frozen.ConstantMask: lambda: frozen.ConstantMask(32)}
EVERY = OF_SCENES | OF_PHOTOS | OF_MAPS
BASES = {frozen.PhotoSegmenter}


def below(cls):
    return {cls} | {one for direct in cls.__subclasses__() for one in below(direct)}


def made(cls):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EVERY[cls]().eval()


@pytest.fixture(scope="module")
def scenes():
    return segmentation.SceneTasks(datasets.load("glyphs", "test"), scenes=2).sample(
        2, torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 3, 32, 32, dtype=torch.int64)
    masks[..., :16, :], masks[..., -4:, :] = 1, VOID
    x = torch.rand(2, 3, 3, 32, 32, generator=generator)
    return Episode(x[:, :1], masks[:, :1], x[:, 1:], masks[:, 1:])


@pytest.fixture
def batch(request, scenes, photos):
    return scenes if request.getfixturevalue("cls") in OF_SCENES else photos


every_learner = pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)


def spoiled(x, value):
    x = x.clone()
    x[-1, -1, -1, 5, 7] = value
    return x


def test_no_learner_is_forgotten():
    of_package = {one for one in below(segmentation.Segmenter) if one.__module__.startswith("mlcourse.")}
    assert of_package - BASES - {segmentation.Segmenter} == set(EVERY)


@every_learner
def test_good_pictures_are_answered(cls, batch):
    with torch.no_grad():
        logits = made(cls)(batch.support_x, batch.support_y, batch.query_x)
    assert logits.shape == batch.query_y.shape
    assert logits.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@every_learner
def test_nan_and_infinity_are_refused(cls, batch, value):
    learner = made(cls)
    with pytest.raises(
        CourseError, match=r"1 of the \d+ values of the (drawings|support (photos|images)) are nan or infinite"
    ):
        learner.adapt(spoiled(batch.support_x, value), batch.support_y)
    state = learner.adapt(batch.support_x, batch.support_y)
    with pytest.raises(CourseError, match=r"1 of the \d+ values of the (scenes|query photos) are nan or infinite"):
        learner.predict(state, spoiled(batch.query_x, value))


@pytest.mark.parametrize("cls", [one for one in EVERY if one not in OF_MAPS], ids=lambda cls: cls.__name__)
def test_they_are_refused_in_training_too(cls, batch):
    learner = made(cls)
    bad = Episode(batch.support_x, batch.support_y, spoiled(batch.query_x, torch.nan), batch.query_y)
    with pytest.raises(CourseError, match="are nan or infinite"):
        learner.outer_loss(bad)
    bad = Episode(spoiled(batch.support_x, torch.nan), batch.support_y, batch.query_x, batch.query_y)
    with pytest.raises(CourseError, match="are nan or infinite"):
        learner.outer_loss(bad)


@every_learner
def test_no_pictures_bytes_and_missing_dimensions_are_refused(cls, batch):
    learner = made(cls)
    state = learner.adapt(batch.support_x, batch.support_y)
    bad = (batch.query_x[:, :0], batch.query_x[..., :0], (255 * batch.query_x).byte(), batch.query_x[:, 0])
    for x in bad:
        with pytest.raises(CourseError, match=r"(scenes|query photos) are torch\..*; give floating point numbers"):
            learner.predict(state, x)
    for x, y in (
        (batch.support_x[:0], batch.support_y[:0]),
        ((255 * batch.support_x).byte(), batch.support_y),
        (batch.support_x[:, 0], batch.support_y),
    ):
        with pytest.raises(
            CourseError, match=r"(drawings|support (photos|images)) are torch\..*; give floating point numbers"
        ):
            learner.adapt(x, y)


@every_learner
def test_scenes_of_other_tasks_than_were_taught_are_refused(cls, batch):
    if cls is segmentation.EveryCharacter:
        pytest.skip("it is taught nothing")
    learner = made(cls)
    state = learner.adapt(batch.support_x, batch.support_y)
    with pytest.raises(CourseError, match="the queries are of 1 tasks, but 2 tasks were taught"):
        learner.predict(state, batch.query_x[:1])


@pytest.mark.parametrize("cls", OF_SCENES | OF_PHOTOS, ids=lambda cls: cls.__name__)
def test_other_channels_and_values_that_are_no_colours_are_refused(cls, batch):
    learner = made(cls)
    state = learner.adapt(batch.support_x, batch.support_y)
    for channels in (2, 4, 9):
        wide = batch.query_x[:, :, :1].expand(-1, -1, channels, -1, -1)
        with pytest.raises(CourseError, match=rf"(scenes|query photos) have {channels} channels; give "):
            learner.predict(state, wide)
        narrow = batch.support_x[:, :, :1].expand(-1, -1, channels, -1, -1)
        with pytest.raises(CourseError, match=rf"(drawings|support photos) have {channels} channels; give "):
            learner.adapt(narrow, batch.support_y)
    with pytest.raises(CourseError, match=r"have values from .* to .*; give colours in \[0, 1\] \(divide bytes by"):
        learner.predict(state, 255 * batch.query_x)
    with pytest.raises(CourseError, match=r"have values from .* to .*; give colours in \[0, 1\] \(divide bytes by"):
        learner.adapt(batch.support_x - 0.5, batch.support_y)
    rounded = spoiled(batch.query_x, 1.0005)  # what was resized may lie a little beyond 1
    assert learner.predict(state, rounded).isfinite().all()


@every_learner
def test_masks_that_mark_nothing_or_fit_no_picture_are_refused(cls, batch):
    learner, masks = made(cls), batch.support_y
    with pytest.raises(CourseError, match=r"the mask of a drawing has no pixel|a support mask is empty"):
        learner.adapt(batch.support_x, torch.zeros_like(masks))
    with pytest.raises(CourseError, match=r"(masks have the shapes|their masks of)"):
        learner.adapt(batch.support_x, masks[:, 0])
    with pytest.raises(CourseError, match=r"(masks are torch\.float32; give bool|masks hold torch\.float32; give 1)"):
        learner.adapt(batch.support_x, masks.float())


@pytest.mark.parametrize("cls", OF_PHOTOS | OF_MAPS, ids=lambda cls: cls.__name__)
def test_numbers_of_classes_are_no_masks(cls, batch):
    """A label map holds numbers, and 255 for void: above 0, all of them, so that all would be the class."""
    learner, label_map = made(cls), torch.where(batch.support_y < 0, label_maps.VOID, 3 * batch.support_y)
    with pytest.raises(CourseError, match=r"masks hold 255; give 1 for the class, 0 for all else, and -1 for void"):
        learner.adapt(batch.support_x, label_map.to(torch.uint8))
    logits = torch.zeros(batch.query_y.shape)
    target = torch.where(batch.query_y > 0, 7, batch.query_y)
    with pytest.raises(CourseError, match=r"masks hold 7; give 1 for the class"):
        learner.loss(logits, target)
    with pytest.raises(CourseError, match=r"masks hold 7; give 1 for the class"):
        learner.score(logits, Episode(batch.support_x, batch.support_y, batch.query_x, target))


@pytest.mark.parametrize("cls", OF_PHOTOS, ids=lambda cls: cls.__name__)
def test_a_mask_of_another_size_than_its_photo_is_refused_and_queries_may_be_of_any(cls, photos):
    learner = made(cls)
    with pytest.raises(CourseError, match=r"support photos are of \(32, 32\) pixels, their masks of \(16, 32\)"):
        learner.adapt(photos.support_x, photos.support_y[..., ::2, :])
    state = learner.adapt(photos.support_x, photos.support_y)
    with torch.no_grad():
        assert learner.predict(state, torch.rand(2, 1, 3, 48, 64)).shape == (2, 1, 48, 64)


def test_maps_of_another_network_are_refused():
    masks = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    learner = frozen.MapPrototypes()
    state = learner.adapt(torch.rand(1, 1, 7, 4, 4), masks)
    with pytest.raises(CourseError, match="the queries have maps of 5 features, the support set has 7"):
        learner.predict(state, torch.rand(1, 2, 5, 4, 4))
    with pytest.raises(CourseError, match=r"photos and masks have the shapes \(1, 2, 7, 4, 4\) and \(1, 1, 8, 8\)"):
        learner.adapt(torch.rand(1, 2, 7, 4, 4), masks)


@every_learner
def test_another_device_is_named(cls, batch):
    learner, elsewhere = made(cls), torch.device("meta")
    with pytest.raises(CourseError, match="masks are on meta, but the learner, or what it was taught, is on cpu"):
        learner.adapt(batch.support_x, batch.support_y.to(elsewhere))
    if cls is segmentation.EveryCharacter:
        return  # it holds nothing, so a scene may be anywhere
    state = learner.adapt(batch.support_x, batch.support_y)
    with pytest.raises(CourseError, match=r"are on meta, but the learner, or what it was taught, is on cpu: bring"):
        learner.predict(state, batch.query_x.to(elsewhere))


@pytest.mark.parametrize(
    "cls",
    [segmentation.ConditionedUNet, segmentation.MaskedPrototypes, frozen.TrainedPrototypes],
    ids=lambda c: c.__name__,
)
def test_pictures_of_another_precision_than_the_weights_are_one_line(cls, batch):
    learner = made(cls)
    both = r"are torch.float64, but the network's weights are torch.float32: bring both to one"
    with pytest.raises(CourseError, match=both):
        learner.adapt(batch.support_x.double(), batch.support_y)
    state = learner.adapt(batch.support_x, batch.support_y)
    with pytest.raises(CourseError, match=both):
        learner.predict(state, batch.query_x.double())


def test_features_that_are_nan_make_no_tasks():
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    labels = torch.ones(4, 16, 16, dtype=torch.uint8)
    maps = label_maps.LabelMaps(images, labels, {1: "all"}, tuple("abcd"), "made")
    features = torch.rand(4, 5, 4, 4)
    assert PhotoTasks(maps, features=features).counts.tolist() == [4]
    with pytest.raises(CourseError, match=r"features are torch.float32, 1 of them nan or infinite; give finite"):
        PhotoTasks(maps, features=_one_nan(features))
    with pytest.raises(CourseError, match=r"features are torch.int64, 0 of them nan or infinite; give finite"):
        PhotoTasks(maps, features=features.long())


def _one_nan(features):
    features = features.clone()
    features[2, 1, 0, 3] = torch.nan
    return features


def test_scenes_without_the_target_do_not_make_the_localisation_loss_nan():
    """Where there is nothing to find, nothing is asked: the loss is that of the other scenes."""
    fit = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :2, :3], masks[2, 5:, 1] = True, True
    loss = segmentation.localisation_loss(fit, masks)
    wanted = segmentation.localisation_loss(fit[[0, 2]], masks[[0, 2]])
    assert loss.item() == pytest.approx(wanted.item())
    nothing = segmentation.localisation_loss(fit, torch.zeros_like(masks))
    assert nothing.item() == 0
    nothing.backward()
    assert not fit.grad.any()
