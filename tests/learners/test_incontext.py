"""The in-context learner: attention in plain loops, what a query sees, labels as vectors."""

import json

import pytest
import torch
from core_helpers import Fixed, Smooth, flat_gradient, loss_at, random_episode, squares
from torch import nn

import mlcourse
from mlcourse import learners, training
from mlcourse.commands import app
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import InContextLearner
from mlcourse.teaching.oracles import gradient_error

F64 = torch.float64


def smooth(normalisation="group", **options):
    torch.manual_seed(0)
    network = Smooth(normalisation)
    network.head, network.embedding_size = nn.Identity(), 16
    return InContextLearner(network, **{"width": 8, "heads": 2, "layers": 2, "most_ways": 4} | options).double()


def made(**options):
    return learners.build("incontext", way=5, size=16, seed=0, **{"channels": 8, "width": 16} | options)


def images(tasks=3, way=5, shot=1, query=3, dtype=F64):
    batch = EpisodeSampler(squares(), way, shot, query).sample(tasks, torch.Generator().manual_seed(0))
    return batch.support_x.to(dtype), batch.support_y, batch.query_x.to(dtype)


# ------------------------------------------------------------------ attention, in plain loops


def plain_layer(layer, tokens, sees):
    """One layer on a list of tokens; token i reads the tokens `sees[i]`."""
    x = [layer.before_attention(token) for token in tokens]
    q, k, v = ([part(one) for one in x] for part in (layer.to_queries, layer.to_keys, layer.to_values))
    size, out = len(tokens[0]) // layer.heads, []
    for i, token in enumerate(tokens):
        read = []
        for head in range(layer.heads):
            own = slice(head * size, (head + 1) * size)
            weights = torch.stack([(q[i][own] @ k[j][own] / size**0.5).exp() for j in sees[i]])
            read.append(sum(w * v[j][own] for w, j in zip(weights, sees[i], strict=True)) / weights.sum())
        token = token + layer.join(torch.cat(read))
        out.append(token + layer.step(layer.before_step(token)))
    return out


def plain_answer(learner, support, labels, query):
    """Logits of one query of one task [way]: support tokens and the query in one sequence."""
    n, vectors = len(support), learner.labels[: int(labels.max()) + 1]
    embedded = [learner.network(x[None])[0] for x in [*support, query]]
    centre = sum(embedded[:-1]) / n
    tokens = [learner.project(z - centre) + vectors[y] for z, y in zip(embedded[:-1], labels, strict=True)]
    tokens.append(learner.project(embedded[-1] - centre) + learner.unknown)
    sees = [list(range(n))] * (n + 1)
    for layer in learner.layers:
        tokens = plain_layer(layer, tokens, sees)
    return torch.stack([learner.scale * learner.last(tokens[-1]) @ vector for vector in vectors])


@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
@pytest.mark.parametrize("layers", [1, 3])
def test_tasks_side_by_side_equal_a_plain_loop_over_tokens_and_heads(normalisation, layers):
    learner = smooth(normalisation, layers=layers).eval()
    batch = random_episode(tasks=2)
    expected = torch.stack([
        torch.stack([plain_answer(learner, x, y, one) for one in q])
        for x, y, q in zip(batch.support_x, batch.support_y, batch.query_x, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(learner(batch.support_x, batch.support_y, batch.query_x), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(learner.outer_loss(batch)[0], learner.loss(expected, batch.query_y), rtol=1e-10, atol=0)


@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
def test_the_meta_gradient_reaches_all_parameters_and_equals_richardson_differences(normalisation):
    learner = smooth(normalisation, most_ways=3).train()
    batch = random_episode(tasks=2)
    f, theta = loss_at(learner, batch)
    learner.outer_loss(batch)[0].backward()
    for name, value in learner.named_parameters():
        # the mean of the batch takes a convolution's bias away again
        assert value.grad.norm() > 1e-8 or (normalisation == "running" and ".conv" in name and name.endswith("bias"))
    assert gradient_error(f, theta, flat_gradient(learner), torch.Generator().manual_seed(1)) < 1e-8


# ------------------------------------------------------------------ what a query and a class may see


@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
def test_other_queries_and_the_order_of_the_support_set_change_no_logit(normalisation):
    learner = made(normalisation=normalisation).double()
    x, y, q = images(shot=2)
    order = torch.randperm(q.shape[1], generator=torch.Generator().manual_seed(0))
    order_x = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    for mode in (False, True):
        learner.train(mode)
        with torch.no_grad():
            state = learner.adapt(x, y)
            together = learner.predict(state, q)
            alone = torch.cat([learner.predict(state, one) for one in q.split(1, dim=1)], 1)
            among_others = learner.predict(state, torch.cat([q[:, order], torch.rand_like(q)], 1))[:, : len(order)]
            reordered = learner(x[:, order_x], y[:, order_x], q)
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(alone, together, **close)
        torch.testing.assert_close(among_others, together[:, order], **close)
        torch.testing.assert_close(reordered, together, **close)


def test_adapting_and_predicting_change_nothing_and_tasks_do_not_see_each_other():
    learner = made().double().train()
    x, y, q = images()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with torch.no_grad():
        state = learner.adapt(x, y)
        together = learner.predict(state, q)
        alone = learner(x[1:2], y[1:2], q[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    assert not any(value.requires_grad for value in state.values())


def test_new_names_with_their_vectors_permute_the_logits_and_new_names_alone_do_not():
    learner = made().double().eval()
    x, y, q = images()
    permutation = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        plain, z, z_query = learner(x, y, q), learner.embed(x), learner.embed(q)
        vectors = learner.assigned(y)[:, permutation.argsort()]  # class 0 is now called 3 and keeps its vector
        with_vectors = learner.compare(learner.keep(z, permutation[y], vectors), z_query)
        names_alone = learner(x, permutation[y], q)
    torch.testing.assert_close(with_vectors[..., permutation], plain, rtol=1e-9, atol=1e-9)
    assert (names_alone[..., permutation] - plain).abs().max() > 1e-3


def test_the_state_holds_keys_and_values_task_by_task_and_another_tasks_answers_differ():
    learner = made(layers=3).double().eval()
    x, y, q = images(shot=2)
    with torch.no_grad():
        state = learner.adapt(x, y)
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        read = {"keys": (3, 3, 4, 10, 4), "values": (3, 3, 4, 10, 4)}
        assert shapes == read | {"centre": (3, 1, 8), "labels": (3, 5, 16)}
        own = learner.predict(state, q)
        for name in ("centre", "keys", "values"):
            others = learner.predict(state | {name: state[name].roll(1, 0)}, q)
            assert (others - own).abs().max() > 1e-5 * own.abs().max()
        rolled = learner.predict({name: value.roll(1, 0) for name, value in state.items()}, q)
    torch.testing.assert_close(rolled[1:2], learner(x[:1], y[:1], q[1:2]), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ label vectors


def test_a_generator_draws_distinct_vectors_for_each_task_and_over_time_all_of_them():
    learner = smooth(most_ways=6)
    labels = torch.arange(3).expand(200, -1)
    drawn = learner.assigned(labels, torch.Generator().manual_seed(0))
    index = (drawn.unsqueeze(2) == learner.labels).all(-1).float().argmax(-1)  # [tasks, way]
    assert torch.equal(learner.labels[index], drawn)
    assert all(len(set(row)) == 3 for row in index.tolist())
    assert index.flatten().bincount(minlength=6).min() > 60  # 100 each on average
    assert torch.equal(drawn, learner.assigned(labels, torch.Generator().manual_seed(0)))
    assert torch.equal(learner.assigned(labels), learner.labels[:3].expand(200, -1, -1))


def test_training_draws_label_vectors_and_its_generator_alone_decides():
    learner, batch = smooth().train(), random_episode(tasks=2)
    losses = [learner.outer_loss(batch, generator=torch.Generator().manual_seed(seed))[0].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


# ------------------------------------------------------------------ edges


def test_unbalanced_support_sets_one_class_and_a_missing_class_are_defined():
    learner = made().double().eval()
    x, _, q = images()
    assert learner(x, torch.tensor([[0, 1, 1, 1, 2]] * 3), q).shape == (3, 15, 3)
    assert learner(x, torch.zeros(3, 5, dtype=torch.long), q).shape == (3, 15, 1)
    with pytest.raises(CourseError, match="no image of some class below 5"):
        learner(x, torch.tensor([[0, 1, 1, 2, 4]] * 3), q)
    labels = torch.tensor([[0, 1, 2, 3, 4]] * 3)
    with pytest.raises(CourseError, match="not finite"):
        evaluate(learner, Fixed(Episode(x, labels, q * float("nan"), labels.repeat(1, 3))), episodes=3)


def test_more_classes_than_label_vectors_are_an_error_that_names_the_remedy():
    learner = made(most_ways=4)
    x, y, q = images(dtype=torch.float32)
    with pytest.raises(CourseError, match=r"5 classes.*vectors for 4 labels.*most_ways=5"):
        learner(x, y, q)
    with pytest.raises(CourseError, match=r"5 classes.*vectors for 4 labels"):
        learner.outer_loss(EpisodeSampler(squares(), 5, 1, 2).sample(1, torch.Generator().manual_seed(0)))
    assert learner(x[:, :4], y[:, :4], q).shape == (3, 15, 4)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(CourseError, match="width 10 does not divide into 4 heads"):
        made(width=10)
    for name in ("width", "heads", "layers", "most_ways"):
        with pytest.raises(CourseError, match=f"{name} is 0"):
            made(**{name: 0})
    with pytest.raises(CourseError, match="normalisation 'support' does not fit"):
        made(normalisation="support")


def test_a_saved_learner_comes_back_and_answers_the_same(tmp_path):
    learner = made(most_ways=7).eval()
    x, y, q = images(dtype=torch.float32)
    with torch.no_grad():
        expected = learner(x, y, q)
        learners.save(learner, tmp_path)
        assert torch.equal(mlcourse.load(tmp_path)(x, y, q), expected)


def test_training_makes_it_better_than_an_untrained_one_also_at_more_classes_than_in_training():
    learner = made(most_ways=8)
    samplers = [EpisodeSampler(squares(split="val"), way, 1, 5) for way in (4, 8)]
    untrained = [evaluate(learner, sampler, episodes=60).accuracy for sampler in samplers]
    source = EpisodeSampler(squares(), 5, 1, 3)
    training.train(learner, source, steps=200, tasks=4, rate=3e-3, seed=0, progress=False)
    trained = [evaluate(learner, sampler, episodes=60).accuracy for sampler in samplers]
    assert trained[0] > max(0.85, untrained[0] + 0.1)
    assert trained[1] > max(0.6, untrained[1] + 0.1)


def test_the_commands_train_and_evaluate_it(tmp_path, capsys):
    out = str(tmp_path / "run")
    app(["train", "incontext", "--recipe", "smoke", "--out", out], standalone_mode=False)
    capsys.readouterr()
    app(["evaluate", out, "--episodes", "10", "--query", "3", "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert 0.1 < result["accuracy"] <= 1
    assert (result["normalisation"], result["transductive"]) == ("running", False)
    assert result["trained"]["train_way"] > result["way"] == 5


def test_the_command_gives_it_a_label_vector_for_each_class_of_training_and_of_validation(tmp_path):
    out = tmp_path / "run"
    few = ["--recipe", "smoke", "--steps", "1", "--query", "2", "--out", str(out)]
    app(["train", "incontext", "--way", "22", "--train-way", "21", *few], standalone_mode=False)
    learner = mlcourse.load(out)
    assert learner.most_ways == 22
    assert json.loads((out / "config.json").read_text())["finished"] is True
