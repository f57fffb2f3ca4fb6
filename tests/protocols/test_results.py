"""A learner on a protocol, the file of its result, and files that are none."""

import json
import math
from dataclasses import replace

import pytest
import torch
from protocol_helpers import damaged, small

from mlcourse import datasets, learners, protocols, statistics
from mlcourse.datasets.images import upright
from mlcourse.errors import CourseError
from mlcourse.evaluation import compare, evaluate
from mlcourse.protocols import results, unseen


@pytest.fixture(scope="module")
def protocol():
    return small()


@pytest.fixture(scope="module")
def pixels(protocol):
    return protocols.evaluate(protocol, learners.build("pixels", way=5), name="pixels", command="mlcourse evaluate")


def prototypical(**options):
    return learners.build("prototypical", way=5, seed=0, channels=8, **options)


def test_the_result_is_that_of_evaluate_on_the_same_episodes(protocol, pixels):
    plain = evaluate(learners.build("pixels", way=5), protocol.sampler(protocol.images()), episodes=40, seed=0)
    assert torch.equal(pixels.per_episode, plain.per_episode)
    assert (plain.digest, pixels.digest) == (protocol.index_digest, protocol.digest)
    assert (pixels.normalisation, pixels.transductive, pixels.trained_on) == ("none", False, None)


def test_a_learner_that_compares_gets_the_same_result(protocol):
    learner = prototypical()
    many = small(episodes=300)
    stored = protocols.evaluate(many, learner, name="net")
    plain = evaluate(learner, many.sampler(many.images()), episodes=300, seed=0)
    assert torch.equal(stored.per_episode, plain.per_episode)


def test_right_answers_of_groups_add_up(pixels, protocol):
    episodes = [protocol.sampler(protocol.images()).sample(20, g) for g in [torch.Generator().manual_seed(0)] * 2]
    classes = torch.cat([one.classes for one in episodes])
    groups = protocol.images().groups
    for group, (there, right) in pixels.groups.items():
        member = torch.tensor([[groups[c] == group for c in row] for row in classes.tolist()]).sum(1)
        assert there == member.sum()
        assert right == (member * torch.tensor(pixels.right)).sum()
    assert pixels.counts.sum(0).tolist() == [40 * 5, 5 * sum(pixels.right)]
    assert set(pixels.groups) == set(datasets.glyphs.SPLITS["test"])
    assert 5 < pixels.crowding < 25
    assert torch.tensor(pixels.reliability["before"]).sum(0)[0] == 40 * 15


def test_a_temperature_makes_untrained_answers_less_wrong(pixels):
    assert pixels.nll("after") < pixels.nll("before")
    assert pixels.fitted_on == "glyphs val"


def test_save_and_load(pixels, protocol, tmp_path):
    protocols.save(pixels, tmp_path / "pixels.json")
    again = protocols.load(tmp_path / "pixels.json", protocol)
    assert json.dumps(again.as_json()) == json.dumps(pixels.as_json())
    assert torch.equal(again.counts, pixels.counts)
    assert len((tmp_path / "pixels.json").read_text().splitlines()) == 2 + len(pixels.as_json())
    assert protocols.stored(protocol, tmp_path) == [again]


# ------------------------------------------------------------------ what is asked


class Watched(learners.PixelNeighbours):
    """It remembers how many queries it was asked at once."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def predict(self, state, query_x):
        self.asked.append(query_x.shape[1])
        return super().predict(state, query_x)


def test_queries_are_asked_one_by_one_where_the_protocol_says_so():
    alone, together = Watched(), Watched()
    of_one, of_all = (
        protocols.evaluate(small(one_by_one=one), learner, name="watched")
        for one, learner in ((True, alone), (False, together))
    )
    assert of_one.right == of_all.right
    assert alone.asked.count(1) > 15 * 2
    assert together.asked.count(15) >= 4


def test_a_learner_that_uses_company_gains_nothing_where_each_query_is_alone():
    class Shares(learners.PixelNeighbours):
        def predict(self, state, query_x):
            logits = super().predict(state, query_x)
            return logits - logits.mean(1, keepdim=True)

    alone = protocols.evaluate(small(one_by_one=True), Shares(), name="shares")
    assert alone.transductive
    assert sum(alone.right) == pytest.approx(40 * 3, abs=40)  # one query alone has its own mean: all logits are 0


def test_more_logits_than_classes_are_wrong_answers_and_nobody_elses_doing():
    class Wide(learners.PixelNeighbours):
        def predict(self, state, query_x):
            logits = super().predict(state, query_x)
            return torch.cat([logits, torch.zeros_like(logits[..., :1])], -1)  # above all negative distances

    stored = protocols.evaluate(small(), Wide(), name="wide")
    assert sum(stored.right) == 0
    assert stored.counts.sum(0).tolist() == [200, 0]


# ------------------------------------------------------------------ what is refused


class Broken(learners.PixelNeighbours):
    def predict(self, state, query_x):
        return super().predict(state, query_x) * math.nan


class Values(learners.PixelNeighbours):
    def predict(self, state, query_x):
        return {"logits": super().predict(state, query_x)}

    def score(self, prediction, batch):
        return super().score(prediction["logits"], batch)


@pytest.mark.parametrize(
    ("make", "about", "changes", "named"),
    [
        (Broken, {}, {}, "answers are not finite"),
        (Values, {}, {}, "has to give logits"),
        (lambda: prototypical(), {"dataset": "glyphs"}, {"split": "val"}, "was trained or chosen on"),
        (
            lambda: prototypical(),
            {"dataset": "omniglot", "protocol": "vinyals", "began_with": [{"dataset": "glyphs"}]},
            {"split": "val"},
            "was trained or chosen on",
        ),
        (lambda: learners.build("prototypical", way=5, size=32, channels=8), {}, {}, "add --convert"),
        (lambda: learners.build("maml", way=3, channels=8), {}, {}, "tells 3 apart at most"),
        (lambda: learners.build("incontext", way=5, channels=8, most_ways=4), {}, {}, "tells 4 apart at most"),
        (lambda: torch.nn.Linear(2, 2), {}, {}, "is no learner"),
        (
            learners.PixelNeighbours,
            {},
            {"calibrate_on": {"dataset": "glyphs", "lists": None, "split": "test"}},
            "fitted",
        ),
    ],
)
def test_learners_that_do_not_fit_are_one_line(make, about, changes, named):
    protocol = small(**changes)
    with pytest.raises(CourseError) as error:
        protocols.evaluate(protocol, make(), name="mine", about=about)
    assert named in str(error.value)


def test_a_folder_is_the_same_data_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    run = {"dataset": str(tmp_path / "photos")}
    assert unseen.same_data(run, "photos")
    assert unseen.same_data(run, "./there/../photos")
    assert not unseen.same_data(run, "glyphs")
    assert not unseen.same_data({}, "photos")
    (tmp_path / "omniglot").mkdir()
    assert not unseen.same_data({"dataset": "omniglot"}, str(tmp_path / "omniglot"))


def test_digits_are_no_folder_that_is_called_so(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not unseen.same_data({"dataset": str(tmp_path / "mnist")}, "mnist")


@pytest.mark.parametrize(
    "about",
    [
        *({"dataset": "glyphs", "began_with": wrong} for wrong in ("x", ["x"], {"a": 1}, 5)),
        {"dataset": 5},
        {"dataset": "/x", "classes": {"train": 5}},
        {"dataset": "/x", "classes": ["a"]},
        {"dataset": "glyphs", "began_with": [{"dataset": "/x", "classes": {"train": [1]}}]},
    ],
)
def test_a_run_that_tells_what_cannot_be_is_one_line(about):
    with pytest.raises(CourseError, match=r"bring its config\.json back"):
        unseen.trainings(about)


def test_a_run_that_does_not_tell_what_it_began_with_is_said():
    assert unseen.untold({"init": "none"}, "mine") == []
    assert unseen.untold({"init": "runs/a", "began_with": []}, "mine") == []
    [line] = unseen.untold({"init": "runs/a"}, "mine")
    assert line.startswith("mine began with runs/a, and does not tell which classes")


@pytest.mark.parametrize(
    ("mine", "before", "asked", "says"),
    [
        ("vinyals", [], "lake", "--protocol vinyals"),
        (None, [], "lake", "--protocol vinyals"),
        ("lake", [{"dataset": "omniglot", "protocol": "vinyals"}], "vinyals", "train another run"),
        ("lake", [{"dataset": "glyphs"}], "vinyals", "--protocol lake"),
    ],
)
def test_the_remedy_leads_out(mine, before, asked, says):
    about = {"dataset": "omniglot", "protocol": mine, "began_with": before}
    remedy = unseen.remedy(about, "omniglot", asked)
    assert says in remedy
    assert "None" not in remedy


def test_what_a_run_began_with_and_what_that_began_with_are_kept():
    first = {"dataset": "glyphs", "protocol": None, "way": 5}
    second = {"dataset": "/x", "classes": {"train": ["a"], "val": []}, "began_with": unseen.as_beginning(first)}
    kept = unseen.as_beginning(second)
    assert kept == [{"dataset": "/x", "classes": {"train": ["a"], "val": []}}, {"dataset": "glyphs"}]
    assert unseen.seen_classes(kept[0], ("train", "val")) == {"a"}
    assert unseen.seen_classes(kept[1], ("train",)) == {*map(upright, datasets.counts("glyphs", "train"))}


def test_what_the_temperature_is_fitted_on_is_looked_at_before_the_work(monkeypatch):
    monkeypatch.setattr(results, "ask", lambda *_, **__: pytest.fail("the work was done first"))
    for split, named in (("test", "are tested"), ("nowhere", "nowhere")):
        protocol = small(calibrate_on={"dataset": "glyphs", "lists": None, "split": split})
        with pytest.raises(CourseError, match=named):
            protocols.evaluate(protocol, learners.build("pixels", way=5), name="pixels")


def test_pictures_of_another_shape_are_converted_when_asked():
    learner = learners.build("prototypical", way=5, size=32, channels=8, seed=0)
    stored = protocols.evaluate(small(), learner, name="large", convert=True)
    assert stored.shape == (1, 32, 32)
    assert stored.content == small().content_digest  # of the protocol's own pictures: it stays a pair
    assert stored.digest == small().digest


def test_a_temperature_that_saw_the_test_is_refused():
    images = datasets.load("glyphs", "test")
    seen = results.Answers(images.select(range(5)))
    with pytest.raises(CourseError, match="5 classes of glyphs test are tested"):
        results.fitted_temperature(seen, frozenset(map(upright, images.names)))


def written(path, result, **changes):
    path.write_text(json.dumps(result.as_json() | changes))
    return path


def typed_figures(result, when="before", **moved):
    """A table of reliability with its fullest row changed: column -> by how much."""
    table = [list(row) for row in result.reliability[when]]
    row = max(table, key=lambda row: row[0])
    for name, by in moved.items():
        row[("answers", "sure", "right", "loss").index(name)] += by
    return {"reliability": result.reliability | {when: table}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"protocol": "glyphs-5way-5shot"}, "is a result of protocol 'glyphs-5way-5shot', not of small"),
        ({"digest": "0" * 16}, "is of other episodes"),
        ({"right": [10]}, "right has 1 episodes, but protocol small has 40"),
        ({"right": [15] * 40}, "right adds up to"),
        ({"right": [16] * 40}, "right has 16 of 15 queries"),
        ({"right": [-1] * 40}, "right has -1"),
        ({"right": [math.nan] * 40}, "right is [nan"),
        ({"right": "many"}, "right is 'many', and has to be a list, each a whole number"),
        ({"right": []}, "right has 0 episodes"),
        ({"groups": {}}, "groups has 0 classes"),
        ({"groups": {"Greek": [200, 1]}}, "right adds up to"),
        ({"groups": {"Greek": [100, 1600], "Thai": [100, 1]}}, "groups has 1600 right answers in 100 classes"),
        ({"scale": 2.0}, "scale is 2.0"),
        ({"crowding": math.nan}, "crowding is nan"),
        ({"crowding": 26}, "crowding is 26"),
        ({"queries": 75}, "queries is 75"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": 21.0}, "temperature is 21.0"),
        ({"temperature": 0.5}, "confidences of"),  # it was above 1
        ({"fitted_on": "glyphs test"}, "calibrates on 'glyphs val'"),
        ({"reliability": None}, "reliability is None"),
        ({"reliability": {"before": [], "after": []}}, "has no 16 rows"),
        ({"content": "0" * 16}, "content is '0000"),
        ({"method": "two\nlines"}, "method is"),
        ({"made_by": ""}, "made_by is ''"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": -5}, "steps is -5"),
        ({"shape": None}, "shape is None"),
        ({"shape": [1, 28]}, "shape is [1, 28], and has to be a list of 3"),
        ({"flop": {"episode": 1, "step": 2, "training": 3}}, "flop of the training is 3"),
        ({"flop": {"episode": 10**400, "step": None, "training": None}}, "flop is"),
        ({"settings": {}}, "settings has no options"),
        ({"accuracy": 0.99}, "'accuracy' is missing or unknown"),
    ],
)
def test_a_file_that_is_no_result_of_this_protocol_is_one_line(changes, named, protocol, pixels, tmp_path):
    with pytest.raises(CourseError) as error:
        protocols.load(written(tmp_path / "mine.json", pixels, **changes), protocol)
    assert named in str(error.value)
    assert "mine.json" in str(error.value)
    assert error.value.args[0].count("\n") == 0


@pytest.mark.parametrize(
    ("moved", "named"),
    [
        ({"right": -1}, "right answers, and right adds up to"),
        ({"right": 1}, "right answers, and right adds up to"),
        ({"answers": -1, "sure": -1}, "answers of 600"),
        ({"sure": 50}, "confidences that its row"),
        ({"sure": -50}, "confidences that its row"),
        ({"loss": -1e6}, "has a loss of"),
    ],
)
def test_typed_figures_do_not_follow_from_the_answers(moved, named, protocol, pixels, tmp_path):
    for when in ("before", "after"):
        path = written(tmp_path / "mine.json", pixels, **typed_figures(pixels, when, **moved))
        with pytest.raises(CourseError, match=named):
            protocols.load(path, protocol)


def test_the_table_of_losses_is_that_of_all_answers(protocol):
    answers, _ = results.ask(protocol.sampler(protocol.images()), prototypical(), 40, 0, one_by_one=False)
    table = results.reliability(answers.logits.double(), answers.labels)
    assert torch.equal(table[:, :3], statistics.reliability(answers.logits, answers.labels))
    whole = statistics.negative_log_likelihood(answers.logits, answers.labels)
    assert table[:, 3].sum().item() / len(answers.labels) == pytest.approx(whole, abs=1e-12)


def test_ties_count_the_same_in_all_tables(protocol):
    class Ties(learners.PixelNeighbours):
        def predict(self, state, query_x):
            return super().predict(state, query_x) * 1e-19  # other logits, the same softmax

    made = protocols.evaluate(protocol, Ties(), name="ties")
    for when in ("before", "after"):
        assert sum(row[2] for row in made.reliability[when]) == sum(made.right)


# ------------------------------------------------------------------ a hundred damaged files

FREE = ("settings", "command", "made_by", "learner", "method", "network", "normalisation", "trained_on", "budget")
FREE += ("seed", "steps", "transductive", "shape")  # what a file may say of its learner, in the right type


def test_whatever_is_damaged_in_a_file_is_one_line_or_changes_no_figure(protocol, tmp_path):
    about = {"dataset": "glyphs", "seed": 3, "steps": 2, "tasks": 1, "train_way": 5, "train_query": 2, "shot": 1}
    result = protocols.evaluate(protocol, prototypical(), name="net", about=about, command="mlcourse evaluate net")
    whole, path, tried, refused = json.loads(json.dumps(result.as_json())), tmp_path / "net.json", 0, 0
    for do, (field, *inside), copy in damaged(whole):
        path.write_text(json.dumps(copy))
        tried += 1
        try:
            found = protocols.load(path, protocol)
        except CourseError as error:
            refused += 1
            text = error.args[0]
            assert "net.json" in text, (do, field)
            assert "\n" not in text, (do, field)
            assert field in text or field in ("protocol", "digest"), (do, field, inside, text)
            continue
        assert field in FREE, (do, field, inside)
        assert torch.equal(found.per_episode, result.per_episode)
        assert found.nll("after") == result.nll("after")
    assert tried > 1000
    assert refused > 0.7 * tried


def test_numbers_and_lists_that_json_itself_gives_up_on(protocol, tmp_path):
    for name, text in (("digits", '{"steps": ' + "9" * 5000 + "}"), ("deep", "[" * 100_000)):
        (tmp_path / f"{name}.json").write_text(text)
        with pytest.raises(CourseError, match=f"{name}.json"):
            protocols.load(tmp_path / f"{name}.json", protocol)


def test_results_of_one_protocol_that_count_other_classes(protocol, pixels, tmp_path):
    written(tmp_path / "a.json", pixels)
    groups = {name: list(pair) for name, pair in pixels.groups.items()}
    one, other = sorted(groups, key=lambda name: groups[name][0])[:2]
    groups[one][0], groups[other][0] = groups[one][0] - 1, groups[other][0] + 1
    written(tmp_path / "b.json", pixels, groups=groups, learner="b", weights="0" * 16)
    with pytest.raises(CourseError, match=r"a\.json and .*b\.json count other classes"):
        protocols.stored(protocol, tmp_path)


def test_two_results_of_one_training_that_differ(protocol, pixels, tmp_path):
    written(tmp_path / "a.json", pixels)
    written(tmp_path / "b.json", pixels)
    assert len(protocols.stored(protocol, tmp_path)) == 1
    swapped = list(pixels.right)
    i = next(i for i in range(1, 40) if swapped[i] != swapped[0])
    swapped[0], swapped[i] = swapped[i], swapped[0]
    written(tmp_path / "b.json", pixels, right=swapped)
    with pytest.raises(CourseError, match="are of the same training, but differ"):
        protocols.stored(protocol, tmp_path)


def test_results_of_other_pictures_are_no_pairs(pixels, tmp_path):
    """Where a protocol cannot say which pixels are the right ones, as of JPEG files."""
    any_copy = replace(small(), content_digest=None)
    any_copy = replace(any_copy, digest=any_copy.field_digest)
    written(tmp_path / "a.json", pixels, digest=any_copy.digest)
    written(tmp_path / "b.json", pixels, digest=any_copy.digest, content="0" * 16, method="other")
    with pytest.raises(CourseError, match="2 different copies of its pictures"):
        protocols.stored(any_copy, tmp_path)


def test_results_of_one_protocol_are_always_a_pair(protocol):
    both = [
        evaluate(one, protocol.sampler(protocol.images()), episodes=40, seed=0) for one in (Watched(), prototypical())
    ]
    assert compare(*both).episodes == 40


# ------------------------------------------------------------------ FLOP


def test_flop_of_a_prototypical_network_by_hand():
    learner = prototypical()  # four strided convolutions: 28 -> 14 -> 7 -> 4 -> 2
    per_picture = sum(2 * 9 * i * 8 * size**2 for i, size in ((1, 14), (8, 7), (8, 4), (8, 2)))
    stored = protocols.evaluate(small(), learner, name="net", about={"tasks": 3, "train_way": 5, "train_query": 2})
    comparing = stored.flop["episode"] - 20 * per_picture
    assert 0 <= comparing < 0.02 * stored.flop["episode"]
    assert stored.flop["training"] is None  # the run does not say its shots


@pytest.mark.parametrize("method", [name for name, one in learners.METHODS.items() if one.recipes])
def test_flop_of_every_method_is_counted(method):
    learner = learners.build(method, way=5, seed=0, channels=8)
    about = {"tasks": 2, "train_way": 5, "train_query": 2, "shot": 1, "steps": 10}
    episode = small().sampler(small().images()).sample(1, torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    found = protocols.flop.count(learner, episode, about)
    assert found["episode"] > 0
    if learner.trains_on == "episodes":
        assert found["training"] == 10 * found["step"] > 0
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_second_order_costs_more_than_first_order():
    about = {"tasks": 1, "train_way": 5, "train_query": 2, "shot": 1, "steps": 1}
    full, first = (
        protocols.flop.of_step(learners.build(method, way=5, channels=8, seed=0), about, (1, 28, 28))
        for method in ("maml", "fomaml")
    )
    assert full > 1.2 * first
