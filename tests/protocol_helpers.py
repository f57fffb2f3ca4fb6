"""A small protocol on the embedded glyphs, which every machine has, and files that are damaged in a thousand ways."""

import json
import math
from dataclasses import replace

from mlcourse import protocols


def small(**changes) -> protocols.Protocol:
    """A protocol of 40 episodes on glyphs, counted and digested with what is changed."""
    made = replace(protocols.read("glyphs-5way-1shot"), **{"name": "small", "episodes": 40, "query": 3} | changes)
    return made.completed()


WRONG = (None, True, "text", [], {}, -1, 1.5, math.nan, math.inf, 10**30)


def damaged(whole: dict):
    """(what was done, the place, the damaged file): a key deleted, another type or value, another length."""
    for *outer, last in list(places_in(whole)):
        for do in ("delete", "longer", "shorter", *WRONG):
            copy = json.loads(json.dumps(whole))
            parent = copy
            for name in outer:
                parent = parent[name]
            before = parent[last]
            if do == "delete":
                del parent[last]
            elif do in ("longer", "shorter"):
                if not isinstance(before, list) or not before:
                    continue
                parent[last] = [*before, before[-1]] if do == "longer" else before[:-1]
            elif isinstance(before, float) and do == 1.5:  # a number that may be right
                continue
            else:
                parent[last] = do
            if json.dumps(copy) != json.dumps(whole):
                yield do, (*outer, last), copy


def places_in(value, place=()):
    """Every place in a JSON value; of long lists the first two."""
    if place:
        yield place
    if isinstance(value, dict):
        for name in value:
            yield from places_in(value[name], (*place, name))
    if isinstance(value, (list, tuple)):
        for index in range(min(2, len(value))):
            yield from places_in(value[index], (*place, index))
