"""Face embeddings: margin losses against their formulas, discriminants against scikit-learn, training, verification."""

import math

import pytest
import torch
from torch.nn import functional as F

from mlcourse import learners, training
from mlcourse.datasets import ClassImages, faces
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.evaluation import evaluate
from mlcourse.vision import faces as recognition
from mlcourse.vision.faces import arcface_logits, cosface_logits

SMALL = {"channels": 8, "embedding": 16}


@pytest.fixture(scope="module")
def learn():
    """30 drawn people, 6 pictures each."""
    return faces.load("val", samples=6).select(range(30))


@pytest.fixture(scope="module")
def test_people():
    return faces.load("test", samples=6).select(range(24))


# margins

LOSSES = {"cosface": cosface_logits, "arcface": arcface_logits}


def some_cosines(seed=0, images=50, classes=7):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(images, 5, generator=generator, dtype=torch.float64)
    w = torch.randn(classes, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    return F.normalize(z, dim=1) @ F.normalize(w, dim=1).T, labels


def by_formula(name, cosine, labels, scale, margin):
    """The papers' formulas, number by number, with the angle itself."""
    logits = []
    for row, label in zip(cosine.tolist(), labels.tolist(), strict=True):
        right = row[label]
        if name == "cosface":
            moved = right - margin
        else:
            angle = math.acos(right)
            moved = math.cos(angle + margin) if angle + margin < math.pi else right - margin * math.sin(margin)
        logits.append([scale * (moved if k == label else value) for k, value in enumerate(row)])
    return torch.tensor(logits, dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.2])
def test_logits_are_those_of_the_paper(name, margin):
    cosine, labels = some_cosines()
    found = LOSSES[name](cosine, labels, 16.0, margin)
    torch.testing.assert_close(found, by_formula(name, cosine, labels, 16.0, margin), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_margin_it_is_the_scaled_cosine_softmax(name):
    cosine, labels = some_cosines(1)
    found = F.cross_entropy(LOSSES[name](cosine, labels, 10.0, 0.0), labels)
    torch.testing.assert_close(found, F.cross_entropy(10 * cosine, labels), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_larger_margin_is_a_larger_loss(name):
    cosine, labels = some_cosines(2)
    losses = [F.cross_entropy(LOSSES[name](cosine, labels, 16.0, m), labels).item() for m in (0, 0.1, 0.3, 0.5)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_differences(name):
    cosine, labels = some_cosines(3, images=8)
    cosine.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda c: F.cross_entropy(LOSSES[name](c, labels, 8.0, 0.3), labels), cosine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [1.0, -1.0, 1 + 1e-7, -1 - 1e-7])
@pytest.mark.parametrize("name", LOSSES)
def test_at_the_ends_value_and_gradient_are_finite(name, end, dtype):
    """Also where rounding takes a cosine a little beyond 1."""
    cosine = torch.full((1, 3), end, dtype=dtype, requires_grad=True)
    logits = LOSSES[name](cosine, torch.tensor([1]), 16.0, 0.3)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1])), cosine)
    assert logits.isfinite().all()
    assert gradient.isfinite().all()
    if name == "arcface" and end == 1.0:
        assert logits[0, 1].item() == pytest.approx(16 * math.cos(0.3), abs=1e-4)


def test_arcface_falls_with_the_angle_all_the_way():
    """Beyond π the cosine would rise again, and reward the worst faces."""
    angles = torch.linspace(0, math.pi, 500, dtype=torch.float64)
    logits = arcface_logits(angles.cos().unsqueeze(1), torch.zeros(500, dtype=torch.int64), 1.0, 0.5)
    assert (logits.diff(dim=0) < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale is 0.0"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"margin": 1.6}, "a right angle or more"),
        ({"classes": 0}, "classes is 0"),
        ({"speed": 3}, "takes other options .*speed"),
    ],
)
def test_what_no_margin_learner_takes(learn, options, message):
    with pytest.raises(CourseError, match=message):
        recognition.build("arcface", learn, **options)


# augmentation


def test_jitter_changes_each_face_in_its_own_way_and_is_drawn_from_the_generator():
    x = torch.rand(1, 1, 48, 40).expand(6, -1, -1, -1)
    once = recognition.jitter(x, torch.Generator().manual_seed(0))
    assert torch.equal(once, recognition.jitter(x, torch.Generator().manual_seed(0)))
    assert len({face.sum().item() for face in once}) == 6
    assert torch.equal(recognition.jitter(x, torch.Generator(), 0), x)
    with pytest.raises(CourseError, match="strength is -1"):
        recognition.jitter(x, None, -1)


def test_a_little_jitter_leaves_the_face_or_its_mirror_image():
    """So the sampling grid is right: no shear, no shift of its own, also where height and width differ."""
    x = F.interpolate(torch.rand(1, 1, 6, 5, generator=torch.Generator().manual_seed(0)), (48, 40), mode="bilinear")
    found = recognition.jitter(x.expand(20, -1, -1, -1), torch.Generator().manual_seed(1), 1e-6)
    away = torch.stack([(found - x).abs().amax((1, 2, 3)), (found - x.flip(-1)).abs().amax((1, 2, 3))])
    assert away.amin(0).max() < 1e-3
    assert set(away.argmin(0).tolist()) == {0, 1}


def test_a_tilt_is_no_shear():
    """A disc stays a disc in pictures that are not square."""
    y, x = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(40) - 19.5, indexing="ij")
    disc = ((x.square() + y.square()).sqrt() < 12).float()
    found = recognition.jitter(disc.expand(40, 1, -1, -1), torch.Generator().manual_seed(0), 0.9)
    solid = found.clamp(0, 1) > 0.5
    sides = torch.stack([solid.any(d).sum(-1).float().squeeze(1) for d in (2, 3)])
    assert ((sides[0] / sides[1]).median() - 1).abs() < 0.05


def test_training_pictures_are_changed_and_others_not(learn):
    for method in recognition.METHODS:
        learner = recognition.build(method, learn, network=SMALL)
        recipe = recognition.RECIPES[method]["smoke"]
        batch = recognition.source(learner, learn, recipe).sample(2, torch.Generator().manual_seed(0))
        learner.eval()
        losses = {learner.outer_loss(batch, generator=torch.Generator())[0].item() for _ in range(2)}
        assert len(losses) == 1
        learner.train()
        losses = {learner.outer_loss(batch, generator=torch.Generator().manual_seed(k))[0].item() for k in range(2)}
        assert len(losses) == 2


# learners


@pytest.mark.parametrize("method", recognition.METHODS)
def test_a_learner_trains_is_saved_and_answers_episodes(method, learn, test_people, tmp_path):
    learner = recognition.build(method, learn, seed=3, network=SMALL)
    recipe = recognition.RECIPES[method]["smoke"]
    training.train(
        learner,
        recognition.source(learner, learn, recipe),
        steps=recipe.steps,
        tasks=recipe.tasks,
        rate=recipe.rate,
        validation=recognition.Verification(test_people),
        out=tmp_path / "run",
        progress=False,
    )
    again = learners.load(tmp_path / "run")
    assert type(again) is recognition.METHODS[method]
    z = recognition.embed(learner, test_people.images)
    torch.testing.assert_close(recognition.embed(again, test_people.images), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))
    result = evaluate(again, EpisodeSampler(test_people, 5, 1, 2), episodes=40)
    assert result.transductive is False
    assert 0.2 < result.value <= 1


@pytest.mark.parametrize("method", recognition.METHODS)
def test_training_makes_new_people_easier_to_tell_apart(method, learn, test_people):
    """Against the same network at random weights, on people that it never saw."""
    learner = recognition.build(method, learn, network=SMALL)
    before = recognition.pairs_of(learner, test_people).curve().eer().item()
    recipe = recognition.RECIPES[method]["short"]
    source = recognition.source(learner, learn, recipe)
    training.train(learner, source, steps=100, tasks=min(recipe.tasks, 32), rate=3e-3, progress=False)
    after = recognition.pairs_of(learner, test_people).curve().eer().item()
    assert after < before - 0.02


def test_edges_do_not_see_how_strong_or_bright_the_light_is():
    x = torch.rand(3, 1, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = recognition.edges(x, 4)
    assert found.shape == (3, 4, 24, 20)
    torch.testing.assert_close(recognition.edges(0.3 * x + 0.2, 4), found, atol=1e-3, rtol=1e-3)
    ramp = torch.linspace(0, 1, 20).expand(1, 1, 24, 20)
    right, down, left, up = recognition.edges(ramp, 4)[0, :, 5:-5, 5:-5].mean((1, 2)).tolist()
    assert right > 1
    assert max(down, left, up) < 1e-5
    torch.testing.assert_close(recognition.edges(x.flip(-1), 4)[:, [0, 2]], found.flip(-1)[:, [2, 0]])


def test_a_trunk_is_what_the_last_layer_sees(learn):
    network = recognition.build("cosface", learn, network=SMALL).network.eval()
    trunk = recognition.Trunk(network)
    x = learn.images[:5].float() / 255
    torch.testing.assert_close(network.last(trunk(x)), network(x))
    assert trunk(x).shape == (5, trunk.embedding_size)
    with pytest.raises(CourseError, match="a Trunk is of a FaceNet"):
        recognition.Trunk(recognition.pixels(learn))


def test_joined_encoders_compare_by_the_mean_of_their_cosines(learn):
    networks = [recognition.build("cosface", learn, seed=seed, network=SMALL).network for seed in (0, 1)]
    joined = recognition.Joined(networks)
    assert joined.embedding_size == 32
    apart = [recognition.pairs_of(one, learn, mirrored=False).scores for one in networks]
    found = recognition.pairs_of(joined, learn, mirrored=False).scores
    torch.testing.assert_close(found, (apart[0] + apart[1]) / 2, atol=1e-6, rtol=0)
    with pytest.raises(CourseError, match="no encoder to join"):
        recognition.Joined([])


def test_an_unknown_method_is_told(learn):
    with pytest.raises(CourseError, match="'sphereface' of faces is unknown: use one of prototypes, cosface, arcface"):
        recognition.build("sphereface", learn)
    with pytest.raises(CourseError, match="vanish in 3 poolings"):
        recognition.FaceNet(size=(7, 40))


# the rival


def blobs(seed=0, people=6, each=20, size=5):
    generator = torch.Generator().manual_seed(seed)
    centre = 2 * torch.randn(people, 1, size, generator=generator, dtype=torch.float64)
    mixed = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rows = centre + torch.randn(people, each, size, generator=generator, dtype=torch.float64) @ mixed
    return rows.flatten(0, 1), torch.arange(people).repeat_interleave(each)


@pytest.mark.parametrize("shapes", [(6, 20, 5), (3, 20, 5), (9, 7, 8)])
def test_discriminants_are_those_of_scikit_learn(shapes):
    analysis = pytest.importorskip("sklearn.discriminant_analysis", reason="needs scikit-learn")
    rows, people = blobs(1, *shapes)
    theirs = analysis.LinearDiscriminantAnalysis(solver="eigen").fit(rows.numpy(), people.numpy())
    matrix = recognition.discriminants(rows, people)
    want = torch.from_numpy(theirs.transform(rows.numpy()))[:, : matrix.shape[1]]
    found = (rows - rows.mean(0)) @ matrix
    signs = (found * want).sum(0).sign()
    torch.testing.assert_close(found * signs, want - want.mean(0), atol=1e-6, rtol=1e-6)


def test_discriminants_solve_their_equation():
    """S_between w = λ S_within w with wᵀ S_within w = 1, the largest λ first; with shrinkage of a shrunk S_within."""
    rows, people = blobs()
    means = torch.stack([rows[people == k].mean(0) for k in range(6)])
    apart = rows - means[people]
    within, between = apart.T @ apart / len(rows), torch.cov(means.T, correction=0)
    for shrinkage in (0.0, 0.3, 1.0):
        shrunk = (1 - shrinkage) * within + shrinkage * torch.eye(5) * within.trace() / 5
        w = recognition.discriminants(rows, people, shrinkage)
        assert w.shape == (5, 5)
        torch.testing.assert_close(w.T @ shrunk @ w, torch.eye(5, dtype=torch.float64))
        ratios = (w.T @ between @ w).diagonal()
        torch.testing.assert_close(between @ w, shrunk @ w * ratios)
        assert (ratios.diff() < 0).all()


def test_discriminants_say_what_they_cannot():
    rows, people = blobs(each=1)
    with pytest.raises(CourseError, match="take fewer components, or a shrinkage above 0"):
        recognition.discriminants(rows, people)
    with pytest.raises(CourseError, match="there is one only"):
        recognition.discriminants(rows, torch.zeros_like(people))
    with pytest.raises(CourseError, match=r"shrinkage is 1.5"):
        recognition.discriminants(rows, people, 1.5)


def test_principal_components_are_those_of_scikit_learn(learn):
    decomposition = pytest.importorskip("sklearn.decomposition", reason="needs scikit-learn")
    network = recognition.eigenfaces(learn, 12)
    rows = recognition.standardised(learn.images.double() / 255).flatten(1)
    theirs = decomposition.PCA(12, svd_solver="full").fit_transform(rows.numpy())
    found = network.double()(learn.images.double() / 255)
    torch.testing.assert_close(found.abs(), torch.from_numpy(theirs).abs(), atol=1e-3, rtol=1e-3)
    with pytest.raises(CourseError, match="differ in 179 directions at most"):
        recognition.eigenfaces(learn, 180)


def test_the_choice_of_the_rival_is_made_on_folds_of_people(learn, test_people):
    network, chosen = recognition.tuned_fisherfaces(learn)
    assert chosen["components"] in recognition.COMPONENTS
    assert chosen["shrinkage"] in recognition.SHRINKAGES
    options = {name: chosen[name] for name in ("components", "shrinkage", "mirrored")}
    again = recognition.fisherfaces(learn, **options)
    assert torch.equal(recognition.embed(network, test_people.images), recognition.embed(again, test_people.images))
    with pytest.raises(CourseError, match="7 people are too few for 4 folds"):
        recognition.tuned_fisherfaces(learn.select(range(7)))


def test_drawn_faces_are_neither_solved_by_pixels_nor_by_fisherfaces():
    """The difficulty of the drawn faces: simple ways are above chance, and far from perfect."""
    learn, test = faces.load("train").select(range(120)), faces.load("test")
    pixels = recognition.pairs_of(recognition.pixels(learn), test).curve().eer().item()
    rival = recognition.pairs_of(recognition.fisherfaces(learn, 130, 0.1), test).curve().eer().item()
    assert 0.25 < pixels < 0.45
    assert 0.08 < rival < pixels - 0.05


# verification


def test_a_face_and_its_mirror_image_have_one_embedding(learn):
    learner = recognition.build("cosface", learn, network=SMALL)
    z, mirrored = (recognition.embed(learner, x) for x in (learn.images, learn.images.flip(-1)))
    torch.testing.assert_close(z, mirrored)
    assert not torch.allclose(recognition.embed(learner, learn.images, mirrored=False), z)
    with pytest.raises(CourseError, match=r"faces are torch.float32"):
        recognition.embed(learner, learn.images.float())


def test_verification_tells_rates_with_intervals_and_a_threshold_of_others(learn, test_people):
    found = recognition.verify(recognition.pixels(learn), test_people, others=learn, draws=50)
    assert found.people == 24
    assert found.value == found.eer.value
    assert found.fnmr[0.1].value <= found.fnmr[0.01].value
    threshold, fmr, fnmr = found.chosen[0.1]
    theirs = recognition.pairs_of(recognition.pixels(learn), learn).curve()
    assert theirs.point(threshold)[0].item() <= 0.1
    pairs = recognition.pairs_of(recognition.pixels(learn), test_people)
    accepted = pairs.scores >= threshold
    assert fmr == pytest.approx(accepted[~pairs.genuine].double().mean().item())
    assert fnmr == pytest.approx((~accepted)[pairs.genuine].double().mean().item())
    told = found.as_json()
    assert set(told["fnmr_at_fmr"]) == {"0.1", "0.01"}
    with pytest.raises(CourseError, match="'person 280' is among the people to test on and to choose thresholds on"):
        recognition.verify(recognition.pixels(learn), test_people, others=test_people)


def test_few_people_get_lines_in_place_of_numbers(learn):
    found = recognition.verify(recognition.pixels(learn), learn.select(range(4)), draws=20)
    assert "there are 4 people, too few" in found.eer
    assert "4 people make 6 pairs of people" in found.fnmr[0.1]
    assert found.value >= 0


def test_a_person_with_one_picture_is_not_tested_and_that_is_said(learn):
    single = ClassImages(learn.images[:13], torch.tensor([6, 6, 1]), ("a", "b", "c"), ("a", "b", "c"), "three", "all")
    with pytest.warns(CourseWarning, match="1 people of three with one face are left out, such as 'c': add faces"):
        assert recognition.verify(recognition.pixels(learn), single, fmrs=()).people == 2


@pytest.mark.parametrize("method", ["cosface", "arcface"])
@pytest.mark.parametrize(("shift", "told"), [(1, "an image is of class 6"), (-1, "an image is of class -1")])
def test_a_person_who_was_not_announced_is_one_line(learn, method, shift, told):
    learner = recognition.build(method, learn, seed=0, network=SMALL)
    people = len(learner.directions)
    batch = learn.images[:2].float() / 255, torch.tensor([0, people - 1]) + shift
    with pytest.raises(CourseError, match=told.replace("6", str(people))):
        learner.outer_loss(batch)
