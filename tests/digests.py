"""Digests of everything that must stay the same to the bit while the code is put in order.

    python tests/digests.py            # print what is different from tests/digests.json
    python tests/digests.py --write    # write the list anew (a change of a digest belongs in a commit that says why)

Two kinds. `episodes` are whole numbers drawn on the CPU: the same on every machine. `trained` are parameters after a
training at the budget `smoke`: the same to the bit only with the same PyTorch and processor, which the list names.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import torch

from mlcourse import datasets, learners, training
from mlcourse.episodes import EpisodeSampler, SinusoidTasks
from mlcourse.evaluation import evaluate

LIST = Path(__file__).with_name("digests.json")


def machine() -> dict[str, str]:
    """What the bits of a training depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"torch": torch.__version__, "processor": names[0] if names else platform.processor(), "threads": "1"}


def digest(*tensors: torch.Tensor) -> str:
    """Of shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()[:16]


def episodes() -> dict[str, str]:
    """Of the indices that the samplers draw."""
    found = {}
    for split in ("train", "val", "test"):
        data = datasets.load("glyphs", split)
        for way, shot, query, tasks, seed in ((5, 1, 15, 20, 0), (20, 5, 5, 4, 1), (60, 1, 5, 1, 2)):
            generator = torch.Generator().manual_seed(seed)
            batches = [EpisodeSampler(data, way, shot, query).sample(tasks, generator) for _ in range(2)]
            parts = [part for b in batches for part in (b.support_index, b.query_index, b.classes)]
            found[f"glyphs {split} {way}-way {shot}-shot, {query} queries, {tasks} tasks, seed {seed}"] = digest(*parts)
    waves = SinusoidTasks().sample(7, 5, 10, torch.Generator().manual_seed(3))
    found["sinusoids"] = digest(waves.support_x, waves.support_y.mul(1e6).round().long())
    sampler = EpisodeSampler(datasets.load("glyphs", "test"), 5, 1, 15)
    result = evaluate(learners.build("pixels", way=5), sampler, episodes=50, seed=4)
    return found | {"evaluate, 50 episodes of glyphs test": result.digest}


def trained(method: str) -> str:
    """Of a learner's parameters and buffers after its smoke recipe on glyphs, 5-way 1-shot, seed 7."""
    plan = learners.recipe(method, "smoke", 5)
    options = dict(plan.options)
    if method == "incontext":
        options["most_ways"] = 20
    learner = learners.build(method, way=5, seed=7, **options)
    train, val = (datasets.load("glyphs", split) for split in ("train", "val"))
    source = EpisodeSampler(train, plan.train_way or 5, 1, plan.query or 15)
    more = {"rate": plan.rate, "schedule": plan.schedule, "validate_every": plan.validate_every}
    training.train(learner, source, steps=plan.steps, tasks=plan.tasks, seed=7, progress=False, **more)
    result = evaluate(learner, EpisodeSampler(val, 5, 1, 5), episodes=10, seed=1)
    return digest(*(value for _, value in sorted(learner.state_dict().items())), result.per_episode)


def all_digests() -> dict:
    """The whole list, as it is now."""
    torch.set_num_threads(1)
    methods = [name for name, one in learners.METHODS.items() if one.recipes and one.learner.trains_on == "episodes"]
    return {"episodes": episodes(), "machine": machine(), "trained": {name: trained(name) for name in methods}}


def different(old: dict, new: dict) -> list[str]:
    """The names whose digests are not the same; trained ones are compared on the same kind of machine only."""
    parts = ["episodes"] + (["trained"] if old["machine"] == new["machine"] else [])
    return [f"{part}: {name}" for part in parts for name in old[part] if old[part][name] != new[part].get(name)]


if __name__ == "__main__":
    now = all_digests()
    if "--write" in sys.argv:
        LIST.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    else:
        wrong = different(json.loads(LIST.read_text(encoding="utf-8")), now)
        print("\n".join(wrong) or "all the same")
        sys.exit(bool(wrong))
