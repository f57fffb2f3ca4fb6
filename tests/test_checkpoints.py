"""The embedded checkpoints load, answer each query by itself, and do what their card says."""

import os
from pathlib import Path

import pytest
import torch

import mlcourse
from mlcourse import datasets, files, learners, places
from mlcourse.episodes import EpisodeSampler
from mlcourse.evaluation import evaluate
from mlcourse.teaching.pad import strokes
from mlcourse.vision.segmentation import SceneTasks

OMNIGLOT = Path(os.environ.get("MLCOURSE_DATA", "nowhere")) / "omniglot-py"
CONFIGS = sorted((places.data() / "checkpoints").glob("*/config.json"))
TASKS = {path.parent: files.read_json(path).get("task") for path in CONFIGS}
FOLDERS = [folder for folder, task in TASKS.items() if task is None]  # classification
SEGMENTING = [folder for folder, task in TASKS.items() if task == "segmentation"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_config_names_every_option_so_that_a_new_default_does_not_change_it(folder):
    config = files.read_json(folder / "config.json")["learner"]
    assert config["options"].keys() == learners.options_of(config["method"]).keys()
    assert config == mlcourse.load(folder).config


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_query_answers_the_same_alone_and_in_company(folder):
    learner = mlcourse.load(folder)
    batch = EpisodeSampler(datasets.load("glyphs", "test"), 5, 1, 4).sample(3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        together = learner.predict(state, batch.query_x)
        alone = torch.cat([learner.predict(state, x) for x in batch.query_x.split(1, 1)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("folder", SEGMENTING, ids=lambda folder: folder.name)
def test_a_segmenter_names_every_argument_and_answers_a_scene_alone_as_in_company(folder):
    learner, config = mlcourse.load(folder), files.read_json(folder / "config.json")["learner"]
    assert config == learner.recorded() == type(learner)(learner.network).recorded()
    batch = SceneTasks(datasets.load("glyphs", "test"), scenes=3).sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        together = learner.predict(state, batch.query_x)
        alone = torch.cat([learner.predict(state, x) for x in batch.query_x.split(1, 1)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="needs omniglot-py in the folder that MLCOURSE_DATA names")
def test_the_pad_knows_omniglot_drawings_sent_through_its_own_pipeline():
    """The card says 97.7 % on 1,000 episodes of all test characters; here 100 episodes of 60 of them, traced anew."""
    few = datasets.load("omniglot", "test", rotations=False, size=105).select(range(0, 420, 7))
    sampler = EpisodeSampler(strokes.as_drawings(few), 5, 1, 15)
    learner = mlcourse.load(places.data() / "checkpoints" / "pad")
    result = evaluate(learner, sampler, episodes=100)
    assert result.accuracy - result.ci95 > 0.9
    untrained = mlcourse.learners.build("prototypical", way=5, seed=0).eval()
    assert evaluate(untrained, sampler, episodes=100).accuracy < 0.9, "the bar would be passed without training"
