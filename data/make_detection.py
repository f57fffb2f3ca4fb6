"""Measure few-shot detection in scenes: detectors and what should be beaten, on the same scenes.

    python data/make_detection.py            # measure, and say what differs from what is stored
    python data/make_detection.py --write    # and write it

The characters are of the test scripts of `glyphs`; no detector has seen them. All answer the same 500 scenes of the
recipe `published`: 17 characters, of which in half of the scenes one is the target; in the other half it is absent.
Each scene is asked with ten drawings of its target, one at a time (some detectors with fewer: FEWER). AP50 is pooled
over the scenes, and the figure is the mean over the drawings; its interval of 95 % is a bootstrap over scenes. "minus"
is a paired difference on the same scenes. "FLOP" are counted by PyTorch (`torch.utils.flop_counter`), two for each
multiplication with its addition: of a training step, of adapting to one drawing, and of one scene.

    data/results/detection.json

The two detectors that look once are measured where their runs are given. They are not stored, since the boxes by colour
are far better; each trains in about three minutes of one core that does nothing else (1,533 steps take the FLOP of the
other's 1,500):

    start="--start data/checkpoints/segmentation --characters 10 --picture same --seed 0 --device cpu"
    mlcourse train detection --method correlation $start --steps 1500 --out runs/correlation
    mlcourse train detection --method fine-tuning $start --steps 1533 --out runs/fine-tuning
    python data/make_detection.py --write --correlation runs/correlation --fine-tuning runs/fine-tuning

With `--answers FOLDER` what each detector answers is kept there, so that a measurement that was stopped goes on.

The detector by correlation is below the bar of 0.60. `--tries RUN …` measures other trainings of it on the same scenes,
with TRY_DRAWINGS drawings, and writes them beside the rest, which stays as it is:

    mlcourse train detection --method correlation $start --steps 4000 --out runs/correlation-longer
    python data/make_detection.py --write --tries runs/correlation-longer

(That one was ended after step 3,000 of 4,000, which is what its checkpoint holds. It has more FLOP than the rival.)
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlcourse import datasets, files, learners, places
from mlcourse.vision import detection, precision

OUT = places.data() / "results" / "detection.json"
EMBEDDING = places.data() / "checkpoints" / "segmentation"
SCENES, DRAWS, SEED, SAMPLES = 500, 10, 0, 500
COMMAND = "python data/make_detection.py --write --correlation runs/correlation --fine-tuning runs/fine-tuning"
PICTURES = {"same": True, "other": False}
# These are asked with fewer drawings: it takes long, or they do not look at it.
FEWER = {"fine-tuning": 1, "correlation": 5, "untrained-matched-boxes": 2, "template-boxes": 1, "every-box": 1}
FIRST = "matched-boxes"
TRY_DRAWINGS = 2


def detectors(runs: dict[str, Path]) -> Iterator[tuple[str, detection.Detector]]:
    """Each detector by its name. The boxes by colour take the embedding of the stored learner of segmentation."""
    yield FIRST, detection.build(FIRST, seed=SEED, start=learners.load(EMBEDDING)).eval()
    for name, folder in runs.items():
        yield name, learners.load(folder)
    for name in ("pixel-boxes", "untrained-matched-boxes", "template-boxes", "every-box"):
        yield name, detection.build(name, seed=SEED).eval()


def asked(name: str, detector: detection.Detector, same: bool, keep: Path | None) -> tuple[list, list]:
    """The detections of each drawing, and the true boxes."""
    runs, characters = [], datasets.load("glyphs", "test")
    for draw in range(FEWER.get(name, DRAWS)):
        file = keep and keep / f"{name}-{same}-{draw}.safetensors"
        if file and file.is_file():
            found, truth = brought_back(file)
        else:
            source = detection.DetectionTasks(characters, same_picture=same, support_draw=draw)
            answers = detection.answers(detector, source, episodes=SCENES, seed=SEED)
            found, truth = answers.detections, answers.truth
            if file:
                kept(file, found, truth)
        runs.append(found)
    return runs, truth


def kept(file: Path, found: list[precision.Detections], truth: list[torch.Tensor]) -> None:
    """Write what a detector answered, and what would have been right."""
    parts = {"boxes": torch.cat([one.boxes for one in found]), "scores": torch.cat([one.scores for one in found])}
    parts |= {"counts": torch.tensor([len(one) for one in found]), "truth": torch.stack(truth)}
    files.save_tensors(file, parts, {"scenes": SCENES, "seed": SEED})


def brought_back(file: Path) -> tuple[list[precision.Detections], list[torch.Tensor]]:
    """What `kept` wrote."""
    parts, _ = files.load_tensors(file)
    counts = parts["counts"].tolist()
    pairs = zip(parts["boxes"].split(counts), parts["scores"].split(counts))
    return [precision.Detections(*pair) for pair in pairs], list(parts["truth"])


def measured(runs: dict[str, Path], same: bool, keep: Path | None) -> dict[str, Any]:
    """Each detector's AP50, its spread over the drawings, its errors, and the paired differences."""
    answers = {name: asked(name, detector, same, keep) for name, detector in detectors(runs)}
    truth = answers[FIRST][1]
    rows = {name: told(found, truth) for name, (found, _) in answers.items()}
    for name, (found, _) in answers.items():
        if name != FIRST:
            pair = precision.precision_interval(answers[FIRST][0][: len(found)], truth, minus=found, draws=SAMPLES)
            rows[name][f"{FIRST} minus this"] = rounded(pair)
    if len(runs) == 2:
        first, second = runs
        one, other = answers[first][0], answers[second][0]
        both = min(len(one), len(other))  # the same drawings
        pair = precision.precision_interval(one[:both], truth, minus=other[:both], draws=SAMPLES)
        rows[first][f"this minus {second}"] = rounded(pair)
    print({name: row["AP50"] for name, row in rows.items()}, flush=True)
    return rows


def told(runs: list, truth: list) -> dict[str, Any]:
    """What is stored of one detector."""
    errors = [precision.errors_of(found, truth, score=0.0) for found in runs]
    each = [precision.average_precision(found, truth) for found in runs]
    return {
        "drawings": len(runs),
        "AP50": rounded(precision.precision_interval(runs, truth, draws=SAMPLES)),
        "AP50 of each drawing": rounded(each),
        "errors of boxes with a score of 0 or more, mean over drawings": {
            kind: sum(one[kind] for one in errors) / len(errors) for kind in errors[0]
        },
    }


def rounded(values: Any) -> list[float]:
    """Five digits, which a rerun gives again."""
    return [round(float(value), 5) for value in values]


def counted(detector: detection.Detector, about: dict[str, Any]) -> dict[str, float]:
    """FLOP of a training step, of adapting to one drawing, and of one scene. about: the settings of its training."""
    characters, generator = datasets.load("glyphs", "train"), torch.Generator().manual_seed(SEED)
    tasks = detection.CrowdTasks(characters, characters_per_scene=about["characters"])
    batch, one = tasks.sample(about["tasks"], generator), detection.DetectionTasks(characters).sample(1, generator)
    with FlopCounterMode(display=False) as step:
        detector.outer_loss(batch)[0].backward()
    with torch.no_grad(), FlopCounterMode(display=False) as adapting:
        state = detector.adapt(one.support_x, one.support_y)
    with torch.no_grad(), FlopCounterMode(display=False) as asking:
        detector.predict(state, one.query_x)
    counts = {"training step": step, "adapting to a drawing": adapting, "a scene": asking}
    return {name: float(counter.get_total_flops()) for name, counter in counts.items()}


def of_training(folder: Path) -> dict[str, Any]:
    """How a run was trained, and its FLOP in all."""
    detector, about = learners.load_run(folder)
    counts = counted(detector, about)
    steps = about["steps_done"]
    kept = {name: about[name] for name in ("method", "characters", "picture", "start", "tasks") if name in about}
    return kept | {"steps": steps, "FLOP": counts | {"training": steps * counts["training step"]}}


def tried(folder: Path) -> dict[str, Any]:
    """How another training went: its AP50 with drawings of the same picture, and of another one."""
    (detector, _), characters = learners.load_run(folder), datasets.load("glyphs", "test")
    made = {}
    for picture, same in PICTURES.items():
        found = []
        for draw in range(TRY_DRAWINGS):
            source = detection.DetectionTasks(characters, same_picture=same, support_draw=draw)
            found.append(detection.answers(detector, source, episodes=SCENES, seed=SEED))
        runs = [one.detections for one in found]
        made[picture] = rounded(precision.precision_interval(runs, found[0].truth, draws=SAMPLES))
    return of_training(folder) | {"drawings": TRY_DRAWINGS, "AP50": made}


def everything(runs: dict[str, Path], keep: Path | None) -> dict[str, Any]:
    """All that is stored."""
    return {
        "command": COMMAND,
        "data": "glyphs test",
        "seed": SEED,
        "scenes": SCENES,
        "characters": 17,
        "absent": 0.5,
        "trained": {name: of_training(folder) for name, folder in runs.items()},
        "pictures": {picture: measured(runs, same, keep) for picture, same in PICTURES.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--correlation", type=Path)
    parser.add_argument("--fine-tuning", type=Path, dest="fine_tuning")
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--tries", type=Path, nargs="+")
    given = parser.parse_args()
    folders = {"correlation": given.correlation, "fine-tuning": given.fine_tuning}
    before = files.read_json(OUT) if OUT.is_file() else {}
    if given.tries:
        now = before | {"tries": before.get("tries", {}) | {one.name: tried(one) for one in given.tries}}
        print(now["tries"])
    else:
        now = everything({name: folder for name, folder in folders.items() if folder is not None}, given.answers)
        now |= {"tries": before["tries"]} if "tries" in before else {}
    if before != now:
        print(f"{OUT} says otherwise")
    if given.write:
        files.write_json(OUT, now)
