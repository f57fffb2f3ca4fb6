"""On a CUDA GPU: the same losses and gradients as on the CPU, and the commands from end to end."""

import json

import pytest
import torch
from core_helpers import flat_gradient, squares

import mlcourse
from mlcourse import learners, training
from mlcourse.commands import app
from mlcourse.episodes import EpisodeSampler

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

LEARNERS = [
    ("maml", {"steps": 2}),
    ("maml", {"steps": 2, "one_by_one": True}),
    ("maml", {"steps": 2, "first_order": True}),
    ("maml", {"steps": 2, "normalisation": "support"}),
    ("maml", {"steps": 2, "normalisation": "group", "downsample": "pool"}),
    ("maml", {"steps": 4, "checkpoint": 2}),
    ("maml", {"steps": 3, "truncate": 1}),
    ("anil", {"steps": 2}),
    ("anil", {"steps": 2, "zero_head": True, "normalisation": "running"}),
    ("maml", {"steps": 2, "zero_head": True}),
    ("meta-sgd", {"steps": 2}),
    ("maml++", {"steps": 2}),
    ("reptile", {"steps": 2}),
    ("imaml", {"steps": 4, "strength": 10.0}),
    ("prototypical", {}),
    ("prototypical", {"downsample": "pool"}),
    ("cosine-prototypical", {}),
    ("matching", {"learned": True}),
    ("relation", {}),
    ("r2d2", {}),
    ("hypernet", {}),
    ("hypernet", {"writes": "network"}),
    ("film", {}),
    ("incontext", {}),
    ("metanet", {}),
]


def in_float64(batch):
    batch.support_x, batch.query_x = batch.support_x.double(), batch.query_x.double()
    return batch


@pytest.mark.parametrize(("method", "options"), LEARNERS)
def test_loss_gradient_and_buffers_are_those_of_the_cpu(method, options):
    results = []
    for device in ("cpu", DEVICE):
        batch = EpisodeSampler(squares(), 5, 1, 3, device=device).sample(3, torch.Generator().manual_seed(0))
        learner = learners.build(method, way=5, size=16, channels=8, seed=0, **options).to(device).double()
        loss, metrics = learner.outer_loss(in_float64(batch))
        loss.backward()
        buffers = [buffer.double().flatten() for buffer in learner.buffers()]
        parts = [loss.detach().flatten(), flat_gradient(learner), *buffers]
        assert all(part.device.type == torch.device(device).type for part in parts)
        results.append((torch.cat([part.cpu() for part in parts]), metrics))
    (here, metrics_here), (there, metrics_there) = results
    assert metrics_here == metrics_there
    assert ((here - there).norm() / here.norm()).item() < 1e-10


@pytest.mark.parametrize("method", ["maml", "prototypical"])
def test_training_resumes_there_and_its_learner_works_on_both(tmp_path, method, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    def run(steps_before_stop=None, out=None):
        class Stopping(EpisodeSampler):
            calls = 0

            def sample(self, tasks, generator):
                Stopping.calls += 1
                if Stopping.calls == steps_before_stop:
                    raise RuntimeError("the machine went away")
                return super().sample(tasks, generator)

        learner = learners.build(method, way=4, size=16, channels=8, seed=0).to(DEVICE)
        validation = EpisodeSampler(squares(split="val"), 4, 1, 3, device=DEVICE)
        settings = {"steps": 6, "tasks": 2, "seed": 3, "validate_every": 2, "validation_episodes": 4, "progress": False}
        source = Stopping(squares(), 4, 1, 3, device=DEVICE)
        training.train(learner, source, validation=validation, out=out, resume=True, **settings)
        return learner

    with pytest.raises(RuntimeError, match="went away"):
        run(steps_before_stop=4, out=tmp_path)
    resumed, whole = run(out=tmp_path).state_dict(), run().state_dict()
    for name, value in whole.items():
        if not name.endswith("conv.bias"):  # their gradient is rounding noise, which Adam magnifies
            torch.testing.assert_close(resumed[name], value, rtol=1e-2, atol=1e-3)
    batch = EpisodeSampler(squares(), 4, 1, 3).sample(2, torch.Generator().manual_seed(1))
    logits = []
    for device in ("cpu", DEVICE):
        loaded, here = mlcourse.load(tmp_path, device=device).double(), in_float64(batch.to(device))
        with torch.no_grad():
            logits.append(loaded(here.support_x, here.support_y, here.query_x).cpu())
    torch.testing.assert_close(*logits, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["maml", "prototypical"])
def test_the_commands_train_and_evaluate_there(tmp_path, method, capsys):
    out = str(tmp_path / "run")
    app(["train", method, "--recipe", "smoke", "--device", DEVICE, "--out", out], standalone_mode=False)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"] == DEVICE
    capsys.readouterr()
    app(["evaluate", out, "--episodes", "20", "--device", DEVICE, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert 0.2 < result["accuracy"] <= 1
    assert result["trained"]["dataset"] == "glyphs"
