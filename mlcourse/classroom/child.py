"""The process that runs a student's answers: `python -m mlcourse.classroom.child LIMITS`.

It reads requests from its standard input and writes replies to its standard output, each a frame (see `wire`). It
holds no oracle's result and no mark: whatever an answer does here, it can only change the tensors that go back.
"""

import contextlib
import importlib
import json
import linecache
import os
import random
import sys
from typing import BinaryIO

from mlcourse.classroom import wire


def main() -> None:
    """Serve requests until the input ends."""
    limits = json.loads(sys.argv[1])
    requests, replies = channels()
    import torch

    torch.set_num_threads(1)
    for lesson in limits["lessons"]:
        importlib.import_module(f"mlcourse.lessons.{lesson}.checks")
    limit(limits)
    wire.write(replies, {"ready": True})
    answers: dict[str, object] = {}
    while (request := wire.read(requests)) is not None:
        reply, tensors = _serve(request[0], request[1], answers)
        _send(replies, reply, tensors)


def channels() -> tuple[BinaryIO, BinaryIO]:
    """Where requests come from and where replies go; what the student's code reads or prints itself goes nowhere."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    requests = os.fdopen(os.dup(0), "rb")
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return requests, replies


def _send(replies: BinaryIO, reply: dict, tensors: dict | None) -> None:
    try:
        wire.write(replies, reply, tensors)
    except ValueError as error:
        wire.write(replies, {"found_by": "outputs", "diagnosis": str(error)})


def limit(limits: dict) -> None:
    """Bound what this process may take. Not on Windows, which has no such limits."""
    with contextlib.suppress(ImportError):
        import resource

        def at_most(kind: str, most: int) -> None:
            number = getattr(resource, kind, None)
            if number is not None:
                hard = resource.getrlimit(number)[1]
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(number, (most, most))

        if sys.platform.startswith("linux"):
            with open("/proc/self/statm", encoding="ascii") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            at_most("RLIMIT_AS", now + limits["memory"])
        at_most("RLIMIT_CORE", 0)
        at_most("RLIMIT_FSIZE", limits["file"])
        at_most("RLIMIT_NOFILE", 128)
        at_most("RLIMIT_CPU", int(limits["all_seconds"]))
        if limits["processes"]:
            at_most("RLIMIT_NPROC", limits["processes"])


def _serve(request: dict, given: dict, answers: dict) -> tuple[dict, dict | None]:
    """The reply to one request, and the tensors that go with it."""
    import torch

    key, check = request["exercise"], _check(request["check"])
    if key not in answers:
        _seed(request["seed"])
        try:
            answers[key] = load(request)
        except BaseException as error:
            answers[key] = None
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return {"found_by": "exception", "diagnosis": f"its cells do not run: {said}."}, None
    answer = answers[key]
    if answer is None:
        return {"found_by": "exception", "diagnosis": "its cells do not run."}, None
    if request["double"]:
        outputs = check.try_in_double(answer, given)
        return ({"found_by": ""}, outputs) if outputs is not None else ({"found_by": "outputs", "diagnosis": ""}, None)
    outputs, found_by, diagnosis = check.try_answer(answer, given)
    if outputs is None:
        return {"found_by": found_by, "diagnosis": str(diagnosis)[:2000]}, None
    return {"found_by": ""}, {name: torch.Tensor.contiguous(value) for name, value in outputs.items()}


def _seed(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)  # noqa: NPY002 (an answer may draw from it)
    torch.manual_seed(seed)


def _check(name: str):
    lesson, attribute = name.split(".")
    return getattr(importlib.import_module(f"mlcourse.lessons.{lesson}.checks"), attribute)


def load(request: dict):
    """Run the parts of an answer; returns its function. Raises whatever the student's cells raise."""
    import __future__

    import ast
    import types

    module = types.ModuleType(f"answer_{request['exercise'].replace('.', '_')}")
    sys.modules[module.__name__] = module
    space = module.__dict__
    for name, check in request["given"].items():
        space[name] = _check(check).reference
    for number, part in enumerate(request["parts"]):
        file = f"<{request['exercise']} {part['title']} {number}>"
        source = part["source"]
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        body = ast.parse(source, file).body
        known = [getattr(__future__, name) for name in part["future"] if name in __future__.all_feature_names]
        flags = sum({one.compiler_flag for one in known})
        statements = [[body[place]] for place in part["keep"]]
        for kept in statements:
            try:
                exec(compile(ast.Module(kept, type_ignores=[]), file, "exec", flags, dont_inherit=True), space)
            except Exception:
                if not part["optional"]:
                    raise
    return space[request["name"]]


if __name__ == "__main__":
    main()
