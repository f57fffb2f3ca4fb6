"""Comparisons that hold: fixed episodes, results that keep every episode, and what a table says of them.

protocol.py      a file that fixes the episodes of a comparison, with digests of what they are drawn from
embedded.py      learners that compare: every picture is embedded once
flop.py          how much a learner computes
results.py       a learner on a protocol: what it got right in each episode, and how sure it was
unseen.py        which classes a run has seen, and the run that it began with
typed.py         files that people may have changed: each field is held against its type
result_files.py  the files of results, believed as far as they agree with themselves
comparison.py    rows, ranks with ties, pairs
"""

from mlcourse.protocols.comparison import Pair, Row, pairs, rows
from mlcourse.protocols.protocol import Protocol, names, read
from mlcourse.protocols.result_files import check_place, folders, load, save, stored
from mlcourse.protocols.results import Stored, evaluate, of_training

__all__ = ["Pair", "Protocol", "Row", "Stored", "check_place", "evaluate", "folders", "load", "names",
           "of_training", "pairs", "read", "rows", "save", "stored"]  # fmt: skip
