"""Learners: gradients, equal ways to compute them, what a query may see, files."""

import json

import pytest
import torch
from core_helpers import Smooth, flat_gradient, loss_at, random_episode, squares
from torch.nn import functional as F

import mlcourse
from mlcourse import files, learners
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import depends_on_company
from mlcourse.learners import MAML, FineTune, PixelNeighbours, PrototypicalNetwork
from mlcourse.learners.base import evaluation_mode
from mlcourse.learners.maml import tasks_at_once
from mlcourse.networks import Conv4
from mlcourse.teaching.oracles import gradient_error

INDUCTIVE = [
    ("maml", {"normalisation": "support"}),
    ("maml", {"normalisation": "group"}),
    ("maml", {"normalisation": "none"}),
    ("maml", {"normalisation": "support", "one_by_one": True}),
    ("prototypical", {}),
    ("prototypical", {"normalisation": "group"}),
    ("pixels", {}),
]


def episode(tasks=3, way=5, shot=1, query=3):
    return EpisodeSampler(squares(), way, shot, query).sample(tasks, torch.Generator().manual_seed(0))


def made(method, **options):
    return learners.build(method, way=5, size=16, seed=0, **options)


@pytest.mark.parametrize("normalisation", ["batch", "support", "group", "none"])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("first_order", [False, True])
def test_side_by_side_equals_one_by_one(normalisation, downsample, first_order):
    batch = episode()
    batch.support_x, batch.query_x = batch.support_x.double(), batch.query_x.double()
    results = []
    for one_by_one in (True, False):
        options = {"channels": 8, "inner_steps": 3, "normalisation": normalisation, "downsample": downsample}
        learner = made("maml", first_order=first_order, one_by_one=one_by_one, **options).double()
        loss, _ = learner.outer_loss(batch)
        loss.backward()
        results.append((loss.detach(), flat_gradient(learner)))
    (loss_a, grad_a), (loss_b, grad_b) = results
    torch.testing.assert_close(loss_a, loss_b, rtol=1e-12, atol=0)
    assert ((grad_a - grad_b).norm() / grad_a.norm()).item() < 1e-10


def test_frozen_parameters_are_not_adapted_and_both_ways_agree():
    batch, logits = episode(), []
    for one_by_one in (True, False):
        learner = made("maml", channels=8, inner_steps=2, one_by_one=one_by_one)
        learner.network.blocks.requires_grad_(False)
        state = learner.adapt(batch.support_x, batch.support_y)
        assert set(state["fast"]) == {"head.weight", "head.bias"}
        logits.append(learner.predict(state, batch.query_x))
        learner.loss(logits[-1], batch.query_y).backward()
        assert learner.network.head.weight.grad.norm() > 0
        assert all(p.grad is None for p in learner.network.blocks.parameters())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["batch", "support"])
def test_wide_shapes_of_the_course_agree_too(normalisation):
    for size, channels, downsample, in_channels in ((28, 64, "stride", 1), (28, 32, "pool", 1), (84, 32, "pool", 3)):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, 10, in_channels, size, size, generator=generator, dtype=torch.float64)
        y = torch.arange(5).repeat(2).expand(2, -1)
        grads = []
        for one_by_one in (True, False):
            network = {"channels": channels, "normalisation": normalisation, "downsample": downsample}
            learner = learners.build(
                "maml",
                way=5,
                in_channels=in_channels,
                size=size,
                seed=0,
                inner_steps=1,
                one_by_one=one_by_one,
                **network,
            ).double()
            learner.loss(learner(x, y, x.flip(1)), y.flip(1)).backward()
            grads.append(flat_gradient(learner))
        assert ((grads[0] - grads[1]).norm() / grads[0].norm()).item() < 1e-10


def test_the_gradient_of_a_prototypical_network_equals_richardson_differences():
    torch.manual_seed(0)
    network = Smooth("group")
    network.head = torch.nn.Identity()
    learner = PrototypicalNetwork(network.double())
    batch = random_episode(tasks=2)
    f, theta = loss_at(learner, batch)
    learner.outer_loss(batch)[0].backward()
    assert gradient_error(f, theta, flat_gradient(learner), torch.Generator().manual_seed(1)) < 1e-8


@pytest.mark.parametrize(("method", "options"), INDUCTIVE)
def test_inductive_means_that_a_query_answers_the_same_alone_and_in_company(method, options):
    learner = made(method, **options).eval()
    batch = episode()
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        together = learner.predict(state, batch.query_x)
        alone = torch.cat([learner.predict(state, x) for x in batch.query_x.split(1, dim=1)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def fine_tuned_after_some_training():
    torch.manual_seed(0)
    return FineTune(Conv4(size=16, channels=8, normalisation="running", downsample="stride"), classes=12, inner_steps=2)


@pytest.mark.parametrize("make", [lambda: made("prototypical"), fine_tuned_after_some_training], ids=["proto", "tune"])
def test_in_training_mode_too_tasks_neither_change_nor_use_batch_statistics(make):
    learner, batch = make(), episode()
    answers = []
    for mode in (False, True):
        learner.train(mode)
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        state = learner.adapt(batch.support_x, batch.support_y)
        together = learner.predict(state, batch.query_x)
        alone = torch.cat([learner.predict(state, x) for x in batch.query_x.split(1, dim=1)], 1)
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
        assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
        assert all(part.training is mode for part in learner.modules())
        answers.append(together)
    assert torch.equal(*answers)


def test_a_gradient_flows_through_adapting_and_predicting_in_training_mode():
    learner, batch = made("prototypical").train(), episode()
    learner.loss(learner(batch.support_x, batch.support_y, batch.query_x), batch.query_y).backward()
    assert all(p.grad.norm() > 0 for p in learner.parameters())


def test_only_the_outer_loss_in_training_mode_uses_and_updates_statistics():
    learner, batch = made("prototypical"), episode()
    losses = {}
    for mode in (False, True):
        learner.train(mode)
        before = {name: value.clone() for name, value in learner.named_buffers()}
        losses[mode] = learner.outer_loss(batch)[0]
        changed = [not torch.equal(before[name], value) for name, value in learner.named_buffers()]
        assert all(changed) if mode else not any(changed)
    learner.eval()
    assert losses[True] != losses[False]


def test_evaluation_mode_gives_each_module_its_own_mode_back():
    learner = made("prototypical").train()
    learner.network.blocks[0].eval()
    before = [part.training for part in learner.modules()]
    with evaluation_mode(learner):
        assert not any(part.training for part in learner.modules())
    assert [part.training for part in learner.modules()] == before


def test_batch_normalisation_is_transductive_and_says_so():
    learner = made("maml", normalisation="batch").eval()
    batch = episode()
    assert depends_on_company(learner, batch)
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        together = learner.predict(state, batch.query_x)[:, :1]
        alone = learner.predict(state, batch.query_x[:, :2])[:, :1]
    assert (together - alone).abs().max() > 1e-2


@pytest.mark.parametrize(("method", "options"), [*INDUCTIVE, ("maml", {"normalisation": "batch"})])
def test_adapting_and_predicting_change_no_parameter_and_no_buffer(method, options):
    learner = made(method, **options).eval()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    batch = episode()
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        learner.predict(state, batch.query_x)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    tensors = [v for v in state.values() if isinstance(v, torch.Tensor)] + list(state.get("fast", {}).values())
    assert not any(tensor.requires_grad for tensor in tensors)


def test_tasks_do_not_see_each_other():
    for method in ("maml", "prototypical", "pixels"):
        learner = made(method).eval()
        batch = episode(tasks=3)
        together = learner(batch.support_x, batch.support_y, batch.query_x)[1:2]
        one = batch.task(1)
        torch.testing.assert_close(learner(one.support_x, one.support_y, one.query_x), together, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["prototypical", "pixels"])
def test_relabelling_the_classes_permutes_the_logits(method):
    learner = made(method).eval()
    batch = episode()
    permutation = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        plain = learner(batch.support_x, batch.support_y, batch.query_x)
        renamed = learner(batch.support_x, permutation[batch.support_y], batch.query_x)
    torch.testing.assert_close(renamed[..., permutation], plain, rtol=1e-4, atol=1e-4)


def test_prototypes_are_class_means_and_distances_are_squared():
    z = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]]])
    centres = learners.prototypes(z, torch.tensor([[0, 0, 1]]), 2)
    assert centres.tolist() == [[[1.0, 0.0], [5.0, 5.0]]]
    assert learners.squared_distances(torch.tensor([[[1.0, 3.0]]]), centres).tolist() == [[[9.0, 20.0]]]


def test_a_class_without_support_is_an_error():
    with pytest.raises(CourseError, match="no image of some class"):
        learners.prototypes(torch.zeros(1, 2, 3), torch.tensor([[0, 2]]), 3)


def test_pixel_neighbours_find_the_nearest_image():
    support = torch.zeros(1, 3, 1, 2, 2)
    support[0, 1] = 1.0
    support[0, 2] = 0.4
    logits = PixelNeighbours()(support, torch.tensor([[0, 1, 0]]), torch.full((1, 1, 1, 2, 2), 0.5))
    assert logits.argmax(-1).item() == 0
    assert logits[0, 0].tolist() == pytest.approx([-0.04, -1.0])


def test_more_classes_than_the_head_has_is_an_error_that_names_the_remedy():
    batch = episode(way=6)
    with pytest.raises(CourseError, match=r"6 classes.*has 5.*way=6"):
        made("maml").adapt(batch.support_x, batch.support_y)


def test_normalisations_that_do_not_fit_are_refused():
    with pytest.raises(CourseError, match="running"):
        MAML(Conv4(out=5, normalisation="running"))
    with pytest.raises(CourseError, match="batch"):
        PrototypicalNetwork(Conv4(normalisation="batch"))
    with pytest.raises(CourseError, match="wishful"):
        Conv4(normalisation="wishful")
    with pytest.raises(CourseError, match="inner_steps is -1"):
        MAML(Conv4(out=5), inner_steps=-1)


def test_fine_tuning_fits_its_support_and_leaves_the_network_alone():
    torch.manual_seed(0)
    learner = FineTune(
        Conv4(size=16, channels=8, normalisation="support", downsample="stride"), inner_steps=30, rate=0.1
    )
    batch = episode(shot=3)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    state = learner.adapt(batch.support_x, batch.support_y)
    fitted = learner.predict(state, batch.support_x).argmax(-1)
    assert (fitted == batch.support_y).float().mean() > 0.9
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    frozen = FineTune(learner.network, inner_steps=2, rate=0.1, head_only=True).adapt(batch.support_x, batch.support_y)
    assert set(frozen["fast"][0]) == {"head.weight", "head.bias"}


def test_pre_training_is_ordinary_classification():
    network = Conv4(size=16, channels=8, normalisation="running", downsample="stride")
    learner = FineTune(network, classes=12)
    x, y = torch.rand(6, 1, 16, 16), torch.arange(6)
    loss, metrics = learner.outer_loss((x, y))
    expected = F.cross_entropy(learner.classifier(network(x)), y)
    torch.testing.assert_close(loss, expected)
    assert set(metrics) == {"accuracy"}


@pytest.mark.parametrize(("method", "options"), INDUCTIVE)
def test_a_saved_learner_comes_back_and_answers_the_same(tmp_path, method, options):
    learner = made(method, **options).eval()
    batch = episode()
    with torch.no_grad():
        expected = learner(batch.support_x, batch.support_y, batch.query_x)
        learners.save(learner, tmp_path / "run", note="kept")
        got = mlcourse.load(tmp_path / "run")(batch.support_x, batch.support_y, batch.query_x)
    assert torch.equal(got, expected)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["note"] == "kept"


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = made("maml"), made("maml"), learners.build("maml", way=5, size=16, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.network.blocks[0].conv.weight, two.network.blocks[0].conv.weight)
    assert not torch.equal(one.network.blocks[0].conv.weight, other.network.blocks[0].conv.weight)


def test_loaded_tensors_do_not_hang_on_their_file(tmp_path):
    path = tmp_path / "some.safetensors"
    files.save_tensors(path, {"zeros": torch.zeros(100_000)})
    tensors, _ = files.load_tensors(path)
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x7f" * 1000)
    assert not tensors["zeros"].any()


def test_damaged_and_foreign_files_are_one_clear_error(tmp_path):
    with pytest.raises(CourseError, match="no folder"):
        mlcourse.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CourseError, match=r"config\.json.*--resume"):
        mlcourse.load(tmp_path / "empty")
    folder = tmp_path / "run"
    learners.save(made("prototypical"), folder)
    whole = (folder / "learner.safetensors").read_bytes()
    (folder / "learner.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CourseError, match=r"learner\.safetensors is damaged or truncated"):
        mlcourse.load(folder)
    learners.save(made("maml"), tmp_path / "maml")
    (folder / "learner.safetensors").write_bytes((tmp_path / "maml" / "learner.safetensors").read_bytes())
    with pytest.raises(CourseError, match="belongs to another learner"):
        mlcourse.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.warns(UserWarning, match=r"config\.json is damaged"):
        assert type(mlcourse.load(folder)) is MAML, "the file of weights says whose they are"


def test_unknown_methods_and_options_are_named():
    with pytest.raises(CourseError, match=r"'mamel' is unknown.*maml"):
        learners.build("mamel", way=5)
    with pytest.raises(CourseError, match=r"^method 'maml' has no option 'colour'; it has channels, .*first_order"):
        learners.build("maml", way=5, colour="red")
    with pytest.raises(CourseError, match=r"^method 'pixels' has no option 'inner_steps'; it has none$"):
        learners.build("pixels", way=5, inner_steps=1)


UNFIT = {
    "option inner_steps of method 'maml' is 'three'; give a value of type int": {"inner_steps": "three"},
    "option inner_steps of method 'maml' is True; give a value of type int": {"inner_steps": True},
    "option inner_rate of method 'maml' is None; give a value of type float": {"inner_rate": None},
    "option evaluation_inner_steps of method 'maml' is 1.5; give a value of type int | None": {
        "evaluation_inner_steps": 1.5
    },
    "option channels of method 'maml' is 8.0; give a value of type int": {"channels": 8.0},
    "channels is 0: give an integer of at least 1": {"channels": 0},
    "way is '5': give an integer of at least 1": {"way": "5"},
    "size is 0: give an integer of at least 1": {"size": 0},
    "seed is -1: give an integer from 0 to 18446744073709551615": {"seed": -1},
    "seed is 1180591620717411303424: give an integer from 0 to 18446744073709551615": {"seed": 2**70},
}


@pytest.mark.parametrize("message", UNFIT)
def test_a_value_that_does_not_fit_is_named_and_not_called_an_unknown_option(message):
    with pytest.raises(CourseError) as raised:
        learners.build("maml", **{"way": 5, "size": 16} | UNFIT[message])
    assert str(raised.value) == message


def test_whole_numbers_are_rates_too():
    assert made("maml", channels=4, inner_rate=1).inner_rate == 1


@pytest.mark.parametrize("method", learners.METHODS)
def test_a_saved_learner_keeps_all_options_so_that_a_new_default_does_not_change_it(method, tmp_path, monkeypatch):
    learners.save(made(method), tmp_path / "all")
    options = files.read_json(tmp_path / "all" / "config.json")["learner"]["options"]
    assert options == learners.options_of(method)
    assert (options == {}) == (method == "pixels")
    if method == "maml":
        assert {
            "channels": 64,
            "normalisation": "batch",
            "inner_steps": 5,
            "inner_rate": 0.4,
        }.items() <= options.items()
        monkeypatch.setitem(MAML.__init__.__kwdefaults__, "inner_rate", 0.1)
        assert made("maml").inner_rate == 0.1
        assert mlcourse.load(tmp_path / "all").inner_rate == 0.4


def test_a_file_with_fewer_options_loads_with_the_defaults(tmp_path):
    learner = made("maml", channels=4, inner_steps=2)
    learners.save(learner, tmp_path)
    config = files.read_json(tmp_path / "config.json")
    config["learner"]["options"] = {"channels": 4, "inner_steps": 2}
    files.write_json(tmp_path / "config.json", config)
    loaded = mlcourse.load(tmp_path)
    assert loaded.config == learner.config
    config["learner"]["options"] = {"channels": 4, "colour": "red"}
    files.write_json(tmp_path / "config.json", config)
    with pytest.raises(CourseError, match=r"config\.json describes no learner that this version knows.*'colour'"):
        mlcourse.load(tmp_path)


@pytest.mark.parametrize("options", [{}, {"learned_rates": "layer", "every_step_until": 10}])
def test_chunks_of_tasks_change_no_number(monkeypatch, options):
    batch, results = episode(tasks=5), []
    batch.support_x, batch.query_x = batch.support_x.double(), batch.query_x.double()
    for at_once in (5, 2):  # the last chunk is smaller
        monkeypatch.setattr("mlcourse.learners.maml.tasks_at_once", lambda *images, n=at_once: n)
        learner = made("maml", channels=8, inner_steps=2, **options).double()
        loss, metrics = learner.outer_loss(batch)
        loss.backward()
        results.append((loss.item(), metrics["accuracy"], flat_gradient(learner)))
    (loss_a, accuracy_a, grad_a), (loss_b, accuracy_b, grad_b) = results
    assert loss_a == pytest.approx(loss_b, rel=1e-12)
    assert accuracy_a == accuracy_b
    assert ((grad_a - grad_b).norm() / grad_a.norm()).item() < 1e-12


def test_chunks_fit_the_cache():
    def at_once(tasks, images, size=28):
        return tasks_at_once(torch.empty(tasks, images - 5, 1, size, size), torch.empty(tasks, 5, 1, size, size))

    assert at_once(32, 80) == 8
    assert at_once(32, 10) == 32
    assert at_once(4, 1000, 84) == 1


def test_channels_that_do_not_divide_into_groups():
    with pytest.raises(CourseError, match="17 channels do not divide"):
        made("maml", channels=17, normalisation="group")


def test_targets_that_would_broadcast_are_refused():
    learner = MAML(torch.nn.Linear(1, 1), inner_steps=1, inner_rate=0.1)
    x = torch.rand(2, 3, 1)
    assert learner.loss(x, x + 1).item() == pytest.approx(1)
    with pytest.raises(CourseError, match=r"\(2, 3, 1\) and \(2, 3\)"):
        learner.loss(x, torch.rand(2, 3))


def test_a_learner_says_what_it_was_built_for():
    for method, most in {"maml": 3, "prototypical": None, "incontext": 7, "pixels": None}.items():
        more = {"most_ways": 7} if method == "incontext" else {}
        learner = learners.build(method, way=3, in_channels=2, size=16, **more)
        assert learners.most_ways(learner) == most
        assert learners.shape_of(learner) == (None if method == "pixels" else (2, 16, 16))
    assert learners.most_ways(learners.build("maml", way=3, size=16, zero_head=True)) is None
    of_ones_own = learners.MAML(Conv4(size=16, out=4))
    assert learners.shape_of(of_ones_own) is learners.most_ways(of_ones_own) is None
