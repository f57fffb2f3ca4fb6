"""Submissions of every kind, made by a script: right ones, and one for each way to break a rule."""

from mlcourse.challenge.card import Card, Part, Rival
from mlcourse.challenge.scoring import Score

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F
from mlcourse.learners import Learner, prototypes, squared_distances

class Mine(Learner):
    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(28 * 28)

    def inner_process(self, support_x, support_y, **_):
        {adapt}
        return {{"centres": prototypes(support_x.flatten(2), support_y, int(support_y.max()) + 1)}}

    def predict(self, state, query_x):
        x = query_x.flatten(2)
        {before}
        logits = -squared_distances(x, state["centres"])
        {predict}
        return logits
"""


def learner(*, adapt: str = "pass", before: str = "pass", predict: str = "pass", more: str = "") -> str:
    """The text of a submission that compares with means of pixels, and does something else besides."""
    return HEAD.format(adapt=adapt, before=before, predict=predict) + more


SEVERAL = learner() + "\nclass Another(Mine):\n    pass\n\nclass Third(Mine):\n    pass\n"

# name -> the text of a submission, and what the refusal says; these need no process of their own to be seen
UNFIT = {
    "several learners": (SEVERAL, r"several learners \(Another, Third\)"),
    "an argument": (learner().replace("__init__(self)", "__init__(self, width)"), "argument width; give it a default"),
    "submission of a number": ("def submission():\n    return 3\n", "gives a int; let it give a Learner"),
    "an error": (learner(adapt="raise KeyError('where')"), "raises KeyError when it is to answer: 'where'"),
    "a method left out": ("from mlcourse.learners import Learner\nclass Mine(Learner):\n    pass\n", "raises"),
    "an answer that is no tensor": (learner(predict="return [1.0]"), "answers with a list"),
    "wrong shape": (learner(predict="return logits[0]"), r"in the shape \(\d+, \d+\); .* here \(1, "),
    "too many classes": (learner(predict="return F.pad(logits, (0, 1))"), "in the shape"),
    "nan": (learner(predict="logits[0, 0, 0] = torch.nan"), "nan, or with numbers beyond"),
    "infinite": (learner(predict="logits[0, 0, 0] = torch.inf"), "nan, or with numbers beyond"),
    "whole numbers": (learner(predict="logits = logits.round().long()"), "in torch.int64; .* not the class"),
    "complex numbers": (learner(predict="logits = logits + 1j"), "in torch.complex64"),
    "order": (
        learner(predict="logits = logits + torch.arange(x.shape[1]).view(1, -1, 1) * torch.eye(*logits.shape[1:])"),
        "with the order or the company of the queries",
    ),
    "company": (learner(before="x = x - x.mean(1, keepdim=True)"), "company of the queries: alone"),
    "company of two": (learner(before="x = x - x.amax(1, keepdim=True) * (x.shape[1] > 1)"), "the company"),
    "order, hidden under a huge logit": (
        learner(
            predict="logits = 1e-6 * logits + torch.eye(*logits.shape[1:])[torch.arange(x.shape[1]) % logits.shape[2]]"
            "\n        logits[0, 0, 0] = -1e9"
        ),
        "with the order",
    ),
    "company, remembered": (
        learner(
            more="\nkept = {}\n",
            before="y = x - x.mean(1, keepdim=True)\n        for k in range(x.shape[1]):\n"
            "            y[:, k] = kept.setdefault((state['centres'].sum().item(), x[:, k].sum().item()), y[:, k])\n"
            "        x = y",
        ),
        "company of the queries: alone",
    ),
    "alone, hidden under a huge logit": (
        learner(
            predict="best = logits.topk(min(2, logits.shape[2]), dim=-1).indices\n"
            "        logits = torch.zeros_like(logits).scatter(-1, best, torch.tensor([2.0, 1.0]).expand(best.shape))\n"
            "        if x.shape[1] == 1:\n            logits = logits.scatter(-1, best, torch.tensor([[[1.0, 2.0]]]))\n"
            "        logits[0, 0, logits[0, 0].argmin()] = -1e25"
        ),
        "the company",
    ),
    "made over budget": (
        learner(more="\n[torch.rand(1024, 1024) @ torch.rand(1024, 1024) for _ in range(9)]\n"),
        r"over the budget of 5e\+09 FLOP for making the learner",
    ),
    "batch statistics": (
        learner(before="x = nn.BatchNorm1d(784, track_running_stats=False)(x[0])[None] if x.shape[1] > 1 else x"),
        "the company",
    ),
    "memory": (
        learner(adapt="self.seen += support_x[0, 0].flatten()", before="x = x + self.seen"),
        "depend on what it answered before",
    ),
    "episode over budget": (
        learner(adapt="[torch.rand(1024, 1024) @ torch.rand(1024, 1024) for _ in range(9)]"),
        r"over the budget of 1e\+10 FLOP for an episode",
    ),
}

# these are seen only in the process of a submission
HARMFUL = {
    "no learner": ("x = 1\n", "defines no learner"),
    "hidden pictures": (
        learner(more="from mlcourse import datasets\ndatasets.load('glyphs', 'test')\n"),
        "it reads files .*index.json",
    ),
    "a path, hushed": (learner(adapt="\n        try: open('/etc/hostname')\n        except: pass"), "it reads files"),
    "writes a file": (learner(adapt="open('/tmp/left', 'w')"), r"it writes files \(/tmp/left\)"),
    "network": (learner(adapt="import socket; socket.create_connection(('127.0.0.1', 9))"), "it wants the network"),
    "fork": (learner(adapt="import os; os.fork()"), r"starts another process \(os.fork\)"),
    "training over budget": (
        learner(
            more="    def meta_fit(self, tasks):\n        x = torch.rand(512, 512)\n"
            "        while True:\n            x = x @ x\n            x = x / x.norm()\n"
        ),
        r"over the budget of 5e\+09 FLOP for training",
    ),
    "endless, in NumPy": (
        learner(adapt="import numpy\n        x = numpy.ones((99, 99))\n        while True: x = x @ x / 99"),
        "did not end within 2 s",
    ),
    "all memory": (
        learner(adapt="x = []\n        while True: x.append(torch.empty(2**26))"),
        "more than 2 GiB of memory",
    ),
    "crash": (learner(adapt="import ctypes; ctypes.string_at(0)"), "ended its process"),
    "exit": (learner(adapt="import os; os._exit(0)"), "ended its process"),
    "a forged reply": (
        learner(
            adapt="import os\n        for n in range(3, 20):\n            try: os.write(n, b'x' * 64)\n"
            "            except OSError: pass"
        ),
        "wrote into the channel",
    ),
}

# It goes past the words, by the C library: only the walls hold it. What works there would be an error, and a refusal.
PAST_THE_GUARD = learner(
    more="""
import ctypes, time
c = ctypes.CDLL(None)
if c.open("{canary}".encode(), 1) >= 0 or c.open("{canary}".encode(), 0) >= 0:
    raise ValueError("it has the file of another")
if c.open("{hidden}".encode(), 0) >= 0:
    raise ValueError("it has the hidden pictures")
if c.connect(c.socket(2, 1, 0), b"\\2\\0\\0\\x16\\x7f\\0\\0\\1" + bytes(8), 16) == 0:
    raise ValueError("it has the network")
if c.fork() == 0:
    while True:
        time.sleep(1)
import os
for _ in range(1000):
    os.write(1, bytes(2**20))
"""
)


def made_card(**changes) -> Card:
    """A card of made-up figures, with letters that small encodings lack."""
    score = Score(0.5, 0.05, None, 3, 0.25, 0.1, 1_000_000, 20)
    given = {"submission": "α → β.py", "learner": "Mine", "digest": "0" * 16, "track": "closed", "seed": 0}
    given |= {"episodes": 20, "weights": "meta_fit", "training_flop": 10**9, "training_budget": 2e12}
    given |= {"episode_budget": 2e11, "score": score, "domains": (Part("glyphs", True, score),)}
    given |= {"rivals": (Rival("pixels", score, 0.1, 0.05),), "left_out": ("MNIST: no copy of it",)}
    return Card(**given | changes)
