"""The process that runs a student's notebook cell by cell: `python -m mlcourse.classroom.runner LIMITS`.

It reads requests, `{"source": …}`, from its standard input, and writes what each cell shows to its standard output, in
frames (see `wire`). It is a plain IPython shell in one process: no kernel, no sockets.
"""

import base64
import json
import sys

from mlcourse.classroom import child, wire

KINDS = ("text/html", "image/png", "text/plain")  # what a page of the executed copy may hold
LONGEST = 100_000  # characters of what a cell prints
LARGEST = 1_500_000  # characters of all that a cell shows
LEFT_OUT = "This cell shows more than is kept."


def main() -> None:
    """Run cells until the input ends."""
    limits = json.loads(sys.argv[1])
    requests, replies = child.channels()
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    torch.set_num_threads(1)
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}), colors="nocolor")
    child.limit(limits)
    wire.write(replies, {"ready": True})
    while (request := wire.read(requests)) is not None:
        wire.write(replies, run(shell, request[0]["source"]))


def run(shell, source: str) -> dict:
    """What a cell prints, shows and raises: {"printed": …, "shown": [{kind: content}, …], "error": …}."""
    from IPython.utils.capture import capture_output

    with capture_output() as seen:
        result = shell.run_cell(source, store_history=False)
    error = result.error_before_exec or result.error_in_exec
    shown, room = [], LARGEST
    for one in seen.outputs:
        kept = {kind: _text(one.data[kind]) for kind in KINDS if kind in one.data}
        room -= sum(map(len, kept.values()))
        if room < 0:
            shown.append({"text/plain": LEFT_OUT})
            break
        shown.append(kept)
    printed = (seen.stdout + seen.stderr)[:LONGEST]
    return {"printed": printed, "shown": shown, "error": f"{type(error).__name__}: {error}"[:2000] if error else ""}


def _text(content) -> str:
    return base64.b64encode(content).decode() if isinstance(content, bytes) else str(content)


if __name__ == "__main__":
    main()
