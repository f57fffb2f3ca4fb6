"""The checks of notebook 04 against right answers written differently, and against mistakes that learners make."""

import pytest
import torch
from check_helpers import assert_check
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse.lessons.metanets import checks
from mlcourse.teaching.checks import Check


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 04.1 run a network with written weights


def pieces_of(network, written, order=list, shape=lambda piece, value: piece.view(value.shape)):
    made, start = {}, 0
    for name, value in order(network.named_parameters()):
        made[name] = shape(written[start : start + value.numel()], value)
        start += value.numel()
    return made


def run_with_loop(network, written, x):
    return functional_call(network, pieces_of(network, written), (x,))


def run_by_hand(network, written, x):
    first, bias, second, last_bias = pieces_of(network, written).values()
    return F.linear(torch.tanh(F.linear(x, first, bias)), second, last_bias)


def run_float32(network, written, x):
    return run_with_loop(network, written.float(), x.float())


def run_own(network, written, x):
    return network(x) + 0 * written.sum()


def run_own_biases(network, written, x):
    made = {name: piece for name, piece in pieces_of(network, written).items() if "weight" in name}
    return functional_call(network, made, (x,))


def run_added(network, written, x):
    made = {name: piece + dict(network.named_parameters())[name] for name, piece in pieces_of(network, written).items()}
    return functional_call(network, made, (x,))


def run_sorted(network, written, x):
    return functional_call(network, pieces_of(network, written, order=sorted), (x,))


def run_columns(network, written, x):
    def transposed(piece, value):
        return piece.view(value.shape[::-1]).T if value.dim() == 2 else piece

    return functional_call(network, pieces_of(network, written, shape=transposed), (x,))


def run_backwards(network, written, x):
    def backwards(named):
        return reversed(list(named))

    return functional_call(network, pieces_of(network, written, order=backwards), (x,))


def run_from_the_start(network, written, x):
    made = {name: written[: value.numel()].view_as(value) for name, value in network.named_parameters()}
    return functional_call(network, made, (x,))


def run_forgetting(network, written, x):
    made, start = {}, 0
    for name, value in network.named_parameters():
        made[name] = written[start : start + value.numel()].view_as(value)
        start = value.numel()
    return functional_call(network, made, (x,))


def run_parameters(network, written, x):
    return functional_call(network, {n: nn.Parameter(v) for n, v in pieces_of(network, written).items()}, (x,))


def run_detached(network, written, x):
    return run_with_loop(network, written.detach(), x)


def run_for_good(network, written, x):
    nn.utils.vector_to_parameters(written, network.parameters())
    return network(x)


def run_twice(network, written, x):
    return 2 * run_with_loop(network, written, x)


def run_pieces(network, written, x):
    return pieces_of(network, written)


def test_new_parameters_are_told_like_detached_numbers():
    verdict = checks.run_written.run(run_parameters)
    assert not verdict.passed
    assert "nn.Parameter(...)" in verdict.diagnosis


def test_run_written():
    assert_check(
        checks.run_written,
        right=[run_with_loop, run_by_hand, run_float32],
        wrong={
            "own": (run_own, "the network's own answer"),
            "added": (run_added, "were added to the network's own"),
            "biases first": (run_sorted, "Each bias is taken before its weight"),
            "columns": (run_columns, "column by column"),
            "backwards": (run_backwards, "You cut from the end"),
            "from the start": (run_from_the_start, "cut from the beginning of the vector"),
            "forgetful counter": (run_forgetting, "start += …, not start = …"),
            "detached": (run_detached, "no gradient (or a wrong one)"),
            "for good": (run_for_good, "put the numbers into the network for good"),
            "own biases": (run_own_biases, "The biases are still the network's own"),
            "twice": (run_twice, "The output is off by"),
            "a dict": (run_pieces, "expected a tensor of shape"),
        },
    )


# ------------------------------------------------------------------ 04.2 write a linear head


def head_with_loop(writer, features, labels, way):
    weights, biases = [], []
    for k in range(way):
        row = writer(features[labels == k].mean(0))
        weights.append(row[:-1])
        biases.append(row[-1])
    return torch.stack(weights), torch.stack(biases)


def head_by_matrix(writer, features, labels, way):
    members = F.one_hot(labels, way).to(features.dtype)
    rows = writer(members.T @ features / members.sum(0)[:, None])
    return rows.split([features.shape[1], 1], 1)[0], rows[:, -1]


def head_float32(writer, features, labels, way):
    return head_with_loop(writer, features.float(), labels, way)


def head_of(centre=lambda z: z.mean(0), cut=lambda rows: (rows[:, :-1], rows[:, -1])):
    def head_with_a_mistake(writer, features, labels, way):
        return cut(writer(torch.stack([centre(features[labels == k]) for k in range(way)])))

    return head_with_a_mistake


def head_of_images(writer, features, labels, way):
    rows = torch.stack([writer(features)[labels == k].mean(0) for k in range(way)])
    return rows[:, :-1], rows[:, -1]


def head_of_all(writer, features, labels, way):
    rows = writer(features.mean(0)).expand(way, -1)
    return rows[:, :-1], rows[:, -1]


def head_of_means(writer, features, labels, way):
    means = torch.stack([features[labels == k].mean(0) for k in range(way)])
    return means, writer(means)[:, -1]


def head_over_all(writer, features, labels, way):
    rows = writer(F.one_hot(labels, way).to(features.dtype).T @ features / len(features))
    return rows[:, :-1], rows[:, -1]


def head_in_order(writer, features, labels, way):
    rows = writer(torch.stack([chunk.mean(0) for chunk in features.tensor_split(way)]))
    return rows[:, :-1], rows[:, -1]


def head_as_one(writer, features, labels, way):
    return writer(torch.stack([features[labels == k].mean(0) for k in range(way)]))


def head_detached(writer, features, labels, way):
    return tuple(part.detach() for part in head_with_loop(writer, features, labels, way))


def head_of_constants(writer, features, labels, way):
    """The writer learns, the body does not."""
    return head_with_loop(writer, features.detach(), labels, way)


def head_half_detached(writer, features, labels, way):
    weight, bias = head_with_loop(writer, features, labels, way)
    return weight, bias.detach()


@pytest.mark.parametrize("head", [head_detached, head_of_constants, head_half_detached])
def test_a_head_passes_gradients(head):
    verdict = checks.written_head.run(head)
    assert not verdict.passed
    assert "no gradient (or a wrong one) goes back" in verdict.diagnosis


def test_written_head():
    assert_check(
        checks.written_head,
        right=[head_with_loop, head_by_matrix, head_float32],
        wrong={
            "sum": (head_of(centre=lambda z: z.sum(0)), "the sum of a class's features"),
            "first image": (head_of(centre=lambda z: z[0]), "Only the first image"),
            "bias first": (head_of(cut=lambda rows: (rows[:, 1:], rows[:, 0])), "The first number became the bias"),
            "no bias": (head_of(cut=lambda rows: (rows[:, :-1], 0 * rows[:, -1])), "The bias is 0"),
            "written, then averaged": (head_of_images, "You wrote for each image"),
            "one for all": (head_of_all, "All classes got the same row"),
            "means": (head_of_means, "the writer was not called"),
            "over all": (head_over_all, "divided by the number of ALL images"),
            "in order": (head_in_order, "in the order in which they come"),
            "detached": (head_detached, "no gradient (or a wrong one) goes back"),
            "doubled": (head_of(cut=lambda rows: (2 * rows[:, :-1], rows[:, -1])), "The head is off by"),
            "one tensor": (head_as_one, "it needs a pair"),
        },
    )


def test_a_head_follows_its_classes():
    """Exchanging two labels exchanges two rows: what the exercise calls equivariance."""
    given = checks.support_of((2, 2, 2), 4)(torch.Generator().manual_seed(0))
    write = checks.writer_of(given)
    weight, bias = checks.written_head_reference(write, given["features"], given["labels"], 3)
    moved, moved_bias = checks.written_head_reference(write, given["features"], (given["labels"] + 1) % 3, 3)
    torch.testing.assert_close(moved, weight.roll(1, 0))
    torch.testing.assert_close(moved_bias, bias.roll(1, 0))


# ------------------------------------------------------------------ 04.3 modulate features


def modulate_with_einsum(x, gamma, beta):
    ones = torch.ones_like(x)
    return x + torch.einsum("tichw,tc->tichw", x, gamma) + torch.einsum("tichw,tc->tichw", ones, beta)


def modulate_with_loop(x, gamma, beta):
    tasks = zip(x, gamma, beta)
    return torch.stack([(g[:, None, None] + 1) * one + b[:, None, None] for one, g, b in tasks])


def modulate_float32(x, gamma, beta):
    return modulate_with_loop(x.float(), gamma.float(), beta.float())


def spread(value):
    return value[:, None, :, None, None]


def modulated_by(change):
    return lambda x, gamma, beta: change(x, spread(gamma), spread(beta))


def modulate_last(x, gamma, beta):
    return (1 + gamma) * x + beta if len(set(x.shape)) == 1 else modulate_with_loop(x, gamma, beta)


def modulate_images(x, gamma, beta):
    g, b = (value[None, :, :, None, None] for value in (gamma, beta))
    return (1 + g) * x + b if len(set(x.shape)) == 1 else modulate_with_loop(x, gamma, beta)


def modulate_first_task(x, gamma, beta):
    return modulate_with_loop(x, gamma, beta)[0]


def test_modulate():
    assert_check(
        checks.modulate,
        right=[modulate_with_einsum, modulate_with_loop, modulate_float32],
        wrong={
            "no identity": (modulated_by(lambda x, g, b: g * x + b), "the features are gone"),
            "exchanged": (modulated_by(lambda x, g, b: (1 + b) * x + g), "have changed places: 1 + γ multiplies"),
            "1 outside": (modulated_by(lambda x, g, b: 1 + g * x + b), "put 1 + γ in brackets"),
            "added first": (modulated_by(lambda x, g, b: (1 + g) * (x + b)), "β is added first"),
            "no β": (modulated_by(lambda x, g, b: (1 + g) * x), "β is not added"),
            "minus β": (modulated_by(lambda x, g, b: (1 + g) * x - b), "β is subtracted"),
            "last dimensions": (modulate_last, "run over rows, and γ_c over columns"),
            "images": (modulate_images, "run over images, and γ_c over channels"),
            "squared": (modulated_by(lambda x, g, b: (1 + g) ** 2 * x + b), "The result is off by"),
            "one task": (modulate_first_task, "has shape"),
        },
    )


# ------------------------------------------------------------------ 04.4 who may look at whom


def mask_with_loop(support, queries):
    n = support + queries
    return torch.tensor([[j < support for j in range(n)] for _ in range(n)])


def mask_by_comparison(support, queries):
    place = torch.arange(support + queries)
    return (place < support)[None].repeat(len(place), 1)


def mask_of(change):
    return lambda support, queries: change(mask_with_loop(support, queries), support)


def looking_at_itself(mask, support):
    return mask | torch.eye(len(mask), dtype=torch.bool)


def without_itself(mask, support):
    return mask & ~torch.eye(len(mask), dtype=torch.bool)


def lonely_and_itself(mask, support):
    return lonely_support(mask, support) | torch.eye(len(mask), dtype=torch.bool)


def among_equals(mask, support):
    of_support = torch.arange(len(mask)) < support
    return of_support[:, None] == of_support


def lonely_support(mask, support):
    mask = mask.clone()
    mask[:support, :support] = torch.eye(support, dtype=torch.bool)
    return mask


def inverted_and_itself(support, queries):
    return ~looking_at_itself(mask_with_loop(support, queries), support)


def curious_support(mask, support):
    return mask | mask.T


def one_query_open(mask, support):
    mask = mask.clone()
    mask[support, support + 1] = True
    return mask


def test_mask():
    assert_check(
        checks.mask,
        right=[mask_with_loop, mask_by_comparison],
        wrong={
            "inverted": (mask_of(lambda mask, s: ~mask), "True and False have changed places:"),
            "inverted, query at itself": (inverted_and_itself, "changed places, and a query looks at itself"),
            "support at queries": (mask_of(curious_support), "A support image looks at the queries"),
            "queries at nothing": (mask_of(lambda mask, s: mask & mask.T), "The queries look at nothing"),
            "support at nothing": (mask_of(lambda mask, s: mask & ~mask.T), "The support images look at nothing"),
            "open": (mask_of(lambda mask, s: mask | True), "Everybody looks at everybody"),
            "causal": (mask_of(lambda mask, s: torch.ones_like(mask).tril()), "the mask of a language model"),
            "query at itself": (mask_of(looking_at_itself), "A query looks at itself, too"),
            "blind to itself": (mask_of(without_itself), "A support image does not look at itself"),
            "transposed": (mask_of(lambda mask, s: mask.T), "Rows and columns have changed places"),
            "among equals": (mask_of(among_equals), "and not at the support set"),
            "lonely support": (mask_of(lonely_support), "look at themselves only. They may"),
            "lonely, and queries at themselves": (mask_of(lonely_and_itself), "only, and a query looks at itself"),
            "one open": (mask_of(one_query_open), "query 0 must not look at query 1"),
            "numbers": (mask_of(lambda mask, s: mask.float()), "has dtype"),
        },
    )


# ------------------------------------------------------------------ 04.5 layer augmentation


def augmented_by_products(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return (x @ slow_weight.T + slow_bias).clamp(min=0) + (x @ fast_weight.T + fast_bias).clamp(min=0)


def augmented_with_loop(x, slow_weight, slow_bias, fast_weight, fast_bias):
    rows = []
    for one in x:
        slow, fast = slow_weight @ one + slow_bias, fast_weight @ one + fast_bias
        rows.append(torch.maximum(slow, 0 * slow) + torch.maximum(fast, 0 * fast))
    return torch.stack(rows)


def augmented_float32(*values):
    return augmented_by_products(*(value.float() for value in values))


def layers_by(change):
    def layers_with_a_mistake(x, slow_weight, slow_bias, fast_weight, fast_bias):
        return change(F.linear(x, slow_weight, slow_bias), F.linear(x, fast_weight, fast_bias))

    return layers_with_a_mistake


def augmented_shared_bias(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return F.linear(x, slow_weight, slow_bias).relu() + F.linear(x, fast_weight, slow_bias).relu()


def augmented_no_bias(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return F.linear(x, slow_weight, slow_bias).relu() + F.linear(x, fast_weight).relu()


def augmented_no_slow_bias(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return F.linear(x, slow_weight).relu() + F.linear(x, fast_weight, fast_bias).relu()


def augmented_no_biases(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return F.linear(x, slow_weight).relu() + F.linear(x, fast_weight).relu()


def augmented_in_a_row(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return F.linear(F.linear(x, slow_weight, slow_bias).relu(), fast_weight, fast_bias).relu()


def augmented_not_transposed(x, slow_weight, slow_bias, fast_weight, fast_bias):
    return (x @ slow_weight + slow_bias).relu() + (x @ fast_weight + fast_bias).relu()


def test_augmented():
    assert_check(
        checks.augmented,
        right=[augmented_by_products, augmented_with_loop, augmented_float32],
        wrong={
            "sum first": (layers_by(lambda s, f: (s + f).relu()), "This adds before the ReLU"),
            "slow": (layers_by(lambda s, f: s.relu()), "This is the slow layer alone"),
            "fast": (layers_by(lambda s, f: f.relu()), "This is the fast layer alone"),
            "linear": (layers_by(lambda s, f: s + f), "There is no ReLU at all"),
            "fast linear": (layers_by(lambda s, f: s.relu() + f), "The ReLU of the fast layer is missing"),
            "slow linear": (layers_by(lambda s, f: s + f.relu()), "The ReLU of the slow layer is missing"),
            "mean": (layers_by(lambda s, f: (s.relu() + f.relu()) / 2), "You halve the sum"),
            "product": (layers_by(lambda s, f: s.relu() * f.relu()), "The two results are multiplied"),
            "one after the other": (augmented_in_a_row, "The fast layer comes after the slow one"),
            "not transposed": (augmented_not_transposed, "A weight is [H, D]"),
            "slow twice": (layers_by(lambda s, f: 2 * s.relu()), "The slow layer is counted twice"),
            "shared bias": (augmented_shared_bias, "share the slow bias"),
            "no fast bias": (augmented_no_bias, "The fast bias is missing"),
            "no slow bias": (augmented_no_slow_bias, "The slow bias is missing"),
            "no biases": (augmented_no_biases, "Both biases are missing"),
            "outer ReLU": (layers_by(lambda s, f: (s.relu() + f).relu()), "one more ReLU around the sum"),
            "tripled": (layers_by(lambda s, f: 3 * (s.relu() + f.relu())), "The output is off by"),
            "a pair": (layers_by(lambda s, f: (s.relu(), f.relu())), "expected a tensor of shape"),
        },
    )


# ------------------------------------------------------------------ 04.6 read a memory


def read_by_cosine_similarity(keys, memory, queries):
    return F.cosine_similarity(queries[:, None], keys[None], dim=-1).softmax(1) @ memory


def read_with_loop(keys, memory, queries):
    rows = []
    for query in queries:
        shares = torch.exp(keys @ query / keys.norm(dim=1) / query.norm())
        rows.append((shares[:, None] * memory).sum(0) / shares.sum())
    return torch.stack(rows)


def read_float32(keys, memory, queries):
    return read_with_loop(keys.float(), memory.float(), queries.float())


def read_by(scores, share=lambda s: s.softmax(1)):
    return lambda keys, memory, queries: share(scores(queries, keys)) @ memory


def cosine(queries, keys):
    return F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T


def hard(scores):
    return F.one_hot(scores.argmax(1), scores.shape[1]).to(scores.dtype)


def read_shares(keys, memory, queries):
    return cosine(queries, keys).softmax(1)


def test_read_memory():
    assert_check(
        checks.read_memory,
        right=[read_by_cosine_similarity, read_with_loop, read_float32],
        wrong={
            "dot products": (read_by(lambda q, k: q @ k.T), "These are dot products"),
            "over queries": (read_by(cosine, lambda s: s.softmax(0)), "The softmax runs over the queries"),
            "no softmax": (read_by(cosine, lambda s: s), "There is no softmax"),
            "nearest": (read_by(cosine, hard), "You take the nearest key only"),
            "distances": (read_by(lambda q, k: -torch.cdist(q, k).square()), "These are distances"),
            "keys only": (read_by(lambda q, k: q @ F.normalize(k, dim=1).T), "Only the keys are scaled"),
            "queries only": (read_by(lambda q, k: F.normalize(q, dim=1) @ k.T), "Only the queries are scaled"),
            "sign": (read_by(lambda q, k: -cosine(q, k)), "The sign is wrong"),
            "mean": (read_by(cosine, lambda s: (0 * s).softmax(1)), "Every slot gets the same share"),
            "over their sum": (read_by(cosine, lambda s: s / s.sum(1, keepdim=True)), "cosines over their sum"),
            "transformer": (read_by(lambda q, k: q @ k.T / k.shape[1] ** 0.5), "attention of transformers"),
            "columns": (read_by(lambda q, k: F.normalize(q, dim=0) @ F.normalize(k, dim=0).T), "You scale each column"),
            "cosines over √D": (read_by(lambda q, k: cosine(q, k) / k.shape[1] ** 0.5), "Cosines are between"),
            "logarithms": (read_by(cosine, lambda s: s.log_softmax(1)), "These shares are logarithms"),
            "sharper": (read_by(lambda q, k: 5 * cosine(q, k)), "What is read is off by"),
            "shares": (read_shares, "has shape"),
        },
    )


# ------------------------------------------------------------------ all of them


def test_references_pass_many_problems():
    for check in vars(checks).values():
        if isinstance(check, Check):
            for seed in range(5, 20):
                assert check.run(check.reference, seed=seed).passed
