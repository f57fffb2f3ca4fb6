"""Measure one-shot segmentation of scenes: the stored learner, and what should be beaten, on the same scenes.

    python data/make_segmentation.py            # measure, and say what differs from what is stored
    python data/make_segmentation.py --write    # and write it
    python data/make_segmentation.py grey       # one recipe of scenes; --write: the other stays as it is

The characters are of the test scripts of `glyphs`; no learner has seen them. All answer the same 1,000 scenes of each
recipe and number of characters (200 of 64 characters and more). Intervals are of 95 %, over scenes; "minus" is the
foreground IoU of the stored learner minus that of another on the same scenes. Only in `grey` scenes the untrained
prototypes answer, too: the stored learner looks at colours, there is one there, and so it marks all ink.

    data/results/segmentation.json
"""

import sys
from typing import Any

from mlcourse import datasets, evaluation, files, learners, places
from mlcourse.vision import segmentation

OUT = places.data() / "results" / "segmentation.json"
STORED = {"colour-groups": "segmentation"}
RIVALS = ("untrained-colour-groups", "template-matching", "every-character")
MORE = {"published": (), "grey": ("untrained-prototypes",)}
LEVELS = (4, 8, 16, 32, 64, 128, 256)
SLOW = {("published", "template-matching"): 32}  # it is asked up to that many characters
SEED = 0


def learner_of(name: str, scenes: str) -> Any:
    """A stored learner, or a rival made anew."""
    if name in STORED:
        return learners.load(places.data() / "checkpoints" / STORED[name])
    return segmentation.build(name, scenes=scenes, seed=SEED)


def measured(scenes: str, level: int) -> dict[str, Any]:
    """Each learner's IoU by the four definitions, and the first one's lead over each other."""
    count = 1000 if level < 64 else 200
    source = segmentation.SceneTasks(datasets.load("glyphs", "test"), characters_per_scene=level, recipe=scenes)
    results = {
        name: evaluation.evaluate(learner_of(name, scenes), source, episodes=count, seed=SEED)
        for name in (*STORED, *RIVALS, *MORE[scenes])
        if level <= SLOW.get((scenes, name), level)
    }
    first = results["colour-groups"]
    found = {}
    for name, result in results.items():
        told = {what: [round(x, 5) for x in pair] for what, pair in segmentation.by_definition(result.scores).items()}
        found[name] = {"IoU": told, "normalisation": result.normalisation}
        if name != "colour-groups":
            lead = evaluation.compare(first, result)
            found[name]["colour-groups minus this"] = [round(lead.difference, 5), round(lead.ci95, 5)]
    return {"scenes": count, "digest": first.digest, "learners": found}


def everything(recipes: list[str], stored: dict[str, Any]) -> dict[str, Any]:
    """All that is stored: these recipes anew, the others as they are."""
    rows = {scenes: stored[scenes] for scenes in stored if scenes not in recipes}
    for scenes in recipes:
        for level in LEVELS:
            rows.setdefault(scenes, {})[str(level)] = measured(scenes, level)
            print(
                scenes,
                level,
                {
                    name: row["IoU"]["foreground, per image"]
                    for name, row in rows[scenes][str(level)]["learners"].items()
                },
                flush=True,
            )
    rows = {scenes: rows[scenes] for scenes in MORE}
    return {"command": "python data/make_segmentation.py --write", "data": "glyphs test", "seed": SEED, "recipes": rows}


if __name__ == "__main__":
    before = files.read_json(OUT) if OUT.is_file() else {"recipes": {}}
    now = everything([one for one in sys.argv[1:] if one in MORE] or [*MORE], before["recipes"])
    if before != now:
        print(f"{OUT} says otherwise")
    if "--write" in sys.argv:
        files.write_json(OUT, now)
