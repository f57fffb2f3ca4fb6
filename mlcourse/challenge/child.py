"""The process that runs a submission: `python -m mlcourse.challenge.child LIMITS`.

It reads requests from its standard input and writes replies to its standard output, each a frame (see
`classroom.wire`). Three requests: load a learner, train it, answer the queries of one episode. Labels of queries,
names, and paths of data never come here. Whatever a submission does here, it changes only the tensors that go back.
"""

import contextlib
import inspect
import json
import linecache
import math
import os
import random
import sys
import types
import warnings
from typing import Any

import numpy
import torch
from torch import Tensor

from mlcourse import places
from mlcourse.challenge import rules
from mlcourse.challenge.counting import Counter, OverBudget
from mlcourse.challenge.guard import Breach, Guard
from mlcourse.challenge.tasks import Tasks
from mlcourse.classroom import child, sandbox, wire
from mlcourse.datasets import ClassImages
from mlcourse.learners import Learner, build, most_ways, restore
from mlcourse.learners.building import made_from

FILE = "<submission>"
LONGEST = 200  # characters of what an error says
SYSTEM = (
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/etc/localtime",
)


class Unfit(Exception):
    """The submission does not do what the rules ask; the text says what, as a sentence that begins with "it"."""


def main() -> None:
    """Serve requests until the input ends."""
    limits = json.loads(sys.argv[1])
    requests, replies = child.channels()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with Counter():
        torch.ones(1, 1) @ torch.ones(1, 1)  # what PyTorch loads late is loaded before the guard stands
    guard = Guard(_readable(), [str(places.data())])
    runner = Runner()
    child.limit(limits)
    wire.write(replies, {"ready": True})
    guard.stand()
    while (request := wire.read(requests)) is not None:
        _answer(replies, guard, *served(runner, *request))


def _readable() -> list[str]:
    return [*sandbox.read_only(), *SYSTEM, *(place for place in sys.path if place), os.getcwd()]


def _answer(replies: Any, guard: Guard, reply: dict, tensors: dict | None) -> None:
    if guard.breach:
        reply, tensors = {"refused": guard.breach}, None
    try:
        wire.write(replies, reply, tensors)
    except (ValueError, RuntimeError) as error:
        wire.write(replies, {"refused": f"it gives answers that cannot be passed on: {_short(error)}"})


def served(runner: "Runner", request: dict, tensors: dict) -> tuple[dict, dict | None]:
    """The reply to a request, and the tensors that go with it. A refusal is a sentence that begins with "it"."""
    try:
        seed_all(request["seed"])
        return getattr(runner, request["do"])(request, tensors)
    except (Unfit, Breach) as error:
        return {"refused": str(error)}, None
    except OverBudget:
        return {"refused": f"it goes over the budget of {request['budget']:.3g} FLOP for {request['for']}"}, None
    except MemoryError:
        return {"refused": _memory()}, None
    except BaseException as error:
        if "allocate memory" in str(error):
            return {"refused": _memory()}, None
        return {"refused": f"it raises {type(error).__name__} when it is to {request['do']}: {_short(error)}"}, None


def _memory() -> str:
    return f"it wants more than {rules.MEMORY / 2**30:.0f} GiB of memory"


def _short(error: BaseException) -> str:
    with contextlib.suppress(Exception):
        text = " ".join(str(error).split())
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return "an error that cannot be told"


def seed_all(seed: int) -> None:
    """What is drawn from the global generators follows from `seed`."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002 (a submission may draw from it)
    torch.manual_seed(seed)


class Runner:
    """One learner, and what is asked of it."""

    learner: Learner

    def load(self, request: dict, weights: dict) -> tuple[dict, None]:
        """Make the learner of a source text, of a method's name, or of a run's config."""
        with Counter(request["budget"] if request["enforced"] else math.inf) as counter:
            if "source" in request:
                self.learner = learner_of(request["source"])
            elif "method" in request:
                self.learner = build(request["method"], way=rules.WAYS[1], **_pictures(), seed=request["seed"])
            else:
                self.learner = made_from(request["config"])
        if weights:
            restore(self.learner, weights, "its file of weights")
        self.learner.eval()
        told = {"learner": type(self.learner).__name__, "fits": _fits(self.learner), "flop": counter.flop}
        return told, None

    def train(self, request: dict, tensors: dict) -> tuple[dict, None]:
        """Call `meta_fit(tasks)`, and say how much it computed."""
        generator = torch.Generator().manual_seed(request["seed"])
        names = tuple(map(str, range(len(tensors["counts"]))))
        images = ClassImages(tensors["images"], tensors["counts"], names, names, "training scripts", "train")
        self.learner.train()
        with Counter(request["budget"] if request["enforced"] else math.inf) as counter, torch.enable_grad():
            self.learner.meta_fit(Tasks(images, counter, request["budget"], generator))
        self.learner.eval()
        return {"flop": counter.flop}, None

    def answer(self, request: dict, given: dict) -> tuple[dict, dict]:
        """Adapt to one episode, and answer its queries: logits [1, queries, way]."""
        with Counter(request["budget"]) as counter, torch.no_grad():
            state = self.learner.adapt(given["support_x"], given["support_y"])
            logits = self.learner.predict(state, given["query_x"])
        if not isinstance(logits, Tensor):
            raise Unfit(f"it answers with a {type(logits).__name__}; let predict give logits [1, queries, way]")
        if most_ways(self.learner) and logits.dim() == 3:  # the fixed head of a method of the course
            logits = logits[..., : int(given["support_y"].max()) + 1]
        return {"flop": counter.flop}, {"logits": logits}


def _pictures() -> dict[str, int]:
    return {"in_channels": rules.SHAPE[0], "size": rules.SHAPE[1]}


def _fits(learner: Learner) -> bool:
    return callable(getattr(learner, "meta_fit", None))


def learner_of(source: str) -> Learner:
    """Run a submission's text; the learner that it defines. Raises Unfit for none or several."""
    module = types.ModuleType("submission")
    module.__file__ = FILE
    sys.modules[module.__name__] = module
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    exec(compile(source, FILE, "exec", dont_inherit=True), module.__dict__)
    makes = vars(module).get("submission")
    if makes is not None:
        learner = makes()
        if not isinstance(learner, Learner):
            raise Unfit(f"it has a submission() that gives a {type(learner).__name__}; let it give a Learner")
        return learner
    found = _learners_in(module)
    if not found:
        raise Unfit("it defines no learner; write one class that inherits from mlcourse.learners.Learner")
    if len(found) > 1:
        names = ", ".join(one.__name__ for one in found)
        raise Unfit(f"it defines several learners ({names}); leave one, or write submission() that returns one")
    return _made(found[0])


def _learners_in(module: types.ModuleType) -> list[type[Learner]]:
    """The learners that a file defines, without those that are bases of others in it."""
    classes = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Learner)]
    own = list(dict.fromkeys(one for one in classes if one.__module__ == module.__name__))
    return [one for one in own if not any(one is not other and issubclass(other, one) for other in own)]


def _made(found: type[Learner]) -> Learner:
    needed = [
        one.name
        for one in inspect.signature(found).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        raise Unfit(f"it defines {found.__name__} with the argument {needed[0]}; give it a default")
    return found()


if __name__ == "__main__":
    main()
