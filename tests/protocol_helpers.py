"""A small protocol on the embedded glyphs, which every machine has."""

from dataclasses import replace

from mlcourse import protocols


def small(**changes) -> protocols.Protocol:
    """A protocol of 40 episodes on glyphs, counted and digested with what is changed."""
    made = replace(protocols.read("glyphs-5way-1shot"), **{"name": "small", "episodes": 40, "query": 3} | changes)
    return made.completed()
