"""Comparisons that hold: fixed episodes, results that keep every episode, and what a table says of them.

protocol.py     a file that fixes the episodes of a comparison, with digests of what they are drawn from
embedded.py     learners that compare: every picture is embedded once
flop.py         how much a learner computes
results.py      a learner on a protocol: what it got right in each episode, and how sure it was
comparison.py   rows, ranks with ties, pairs
"""

from mlcourse.protocols.comparison import Pair, Row, pairs, rows
from mlcourse.protocols.protocol import Protocol, names, read
from mlcourse.protocols.results import Stored, evaluate, folders, load, save, stored

__all__ = ["Pair", "Protocol", "Row", "Stored", "evaluate", "folders", "load", "names", "pairs", "read", "rows",
           "save", "stored"]  # fmt: skip
