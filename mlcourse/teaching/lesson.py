"""How each notebook begins and ends.

session = lesson.start("01", seed=SEED, budget=BUDGET, device=DEVICE, dataset=DATASET, takes=("glyphs", "omniglot"))
steps = session.pick(smoke=5, lesson=300, paper=60_000)
generator = session.generator()
...
session.end()
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mlcourse import datasets, devices, memory, threads
from mlcourse.errors import CourseError
from mlcourse.teaching import figures
from mlcourse.teaching.progress import predict, reveal

__all__ = ["BUDGETS", "IMPORT_CELL", "Session", "expected", "predict", "reveal", "start"]

BUDGETS = ("smoke", "lesson", "paper")

# The first code cell of each notebook, with the lesson and the names that it needs. A notebook that was opened
# without the package (Colab, Kaggle, a file sent by mail) stops here with the one line to paste.
IMPORT_CELL = """\
try:
    from mlcourse.lessons.losses import checks
    from mlcourse.teaching import figures, lesson, widgets
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"{missing}. Paste this into a cell, run it, restart the kernel:  %pip install "
        "git+ADDRESS  (ADDRESS: where you got this notebook's repository from)"
    ) from None
"""


@dataclass
class Session:
    """What the parameters of a notebook mean on this machine."""

    notebook: str
    seed: int
    budget: str
    device: torch.device
    dataset: str
    began: float = field(default_factory=time.perf_counter)

    def pick(self, *, smoke: Any, lesson: Any, paper: Any) -> Any:
        """Return the value for this session's budget. Budgets count steps and episodes, never minutes."""
        return {"smoke": smoke, "lesson": lesson, "paper": paper}[self.budget]

    def generator(self, offset: int = 0) -> torch.Generator:
        """Return a CPU generator: the same seed and offset give the same numbers, others give others."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + offset) % 2**63)

    def end(self) -> None:
        """Print the peak memory and the time since the start: a killed kernel leaves no other trace."""
        gpu = ""
        if self.device.type == "cuda":
            gpu = f", {torch.cuda.max_memory_allocated(self.device) / 2**20:.0f} MiB on the GPU"
        seconds = time.perf_counter() - self.began
        print(f"Notebook {self.notebook}, {self.budget}: {seconds:.0f} s, peak memory {memory.peak():.0f} MiB{gpu}.")


def start(
    notebook: str,
    *,
    seed: int,
    budget: str,
    device: str = "auto",
    dataset: str = "glyphs",
    takes: Sequence[str] = (*datasets.NAMES, datasets.FOLDER),
    least: Mapping[str, tuple[int, int]] | None = None,
    makes: str | None = None,
) -> Session:
    """Begin a notebook: read and check the parameters, set style and threads, print one line.

    Args:
        notebook: its number, "01".
        seed: whole number from 0 to 2⁶⁴ − 1; it also seeds PyTorch's global generator, which initialises networks.
        budget: "smoke", "lesson" or "paper"; the environment variable MLCOURSE_BUDGET overrides it, for tests.
        device: "auto", "cpu" or "cuda".
        dataset: a name that `mlcourse.datasets.load` takes, or a folder.
        takes: which data sets the notebook works with: such names, and "folder" for a folder of class folders.
        least: split → (classes, pictures in each class) that the notebook needs of its data.
        makes: data that the notebook makes itself, by name; then it takes this and nothing else.

    Raises CourseError for a value that is none of these, for data that the notebook does not take, and for a local copy
    that is missing: now, and not in the cell that needs it.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise CourseError(f"SEED is {seed!r}; set a whole number from 0 to {2**64 - 1}")
    budget = os.environ.get("MLCOURSE_BUDGET") or budget
    if budget not in BUDGETS:
        raise CourseError(f"BUDGET is {budget!r}; set one of {', '.join(BUDGETS)}")
    where = devices.pick(device)
    if makes is None:
        datasets.check(dataset, takes, least or {})
    elif dataset != makes:
        raise CourseError(f"this takes {makes}, but not {dataset!r}: set DATASET to {makes!r}")
    # PyTorch says this of itself, when `torch.func.jvp` is first called; a learner can do nothing about it
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", category=FutureWarning)
    figures.use_style()
    given_up = threads.make_room()
    count = torch.get_num_threads()
    torch.manual_seed(seed)
    cpu = f"CPU, {count} thread" + "s" * (count != 1)
    cpu += f" ({given_up} fewer, since other programs are busy)" if given_up else ""
    chosen = torch.cuda.get_device_name(where) if where.type == "cuda" else cpu
    data = f"data {dataset} (taken: {makes or datasets.taken(takes)})"
    print(f"Notebook {notebook}: budget {budget}, seed {seed}, {data}, {chosen}, PyTorch {torch.__version__}")
    return Session(notebook, seed, budget, where, str(dataset))


@contextmanager
def expected(error: type[Exception], words: str = "") -> Iterator[None]:
    """Show an error that a cell makes on purpose, in one line, and go on.

        with lesson.expected(NameError, "F"):
            network(images)

    Raises CourseError when the block ends without an `error` whose text holds `words`; another error passes through.
    (The cell tag `raises-exception` also passes when nothing is raised.)
    """
    try:
        yield
    except error as raised:
        text = " ".join(str(raised).split())
        if words not in text:
            raise
        print(f"{type(raised).__name__}, as expected: {text}")
    else:
        hint = f" with the words {words!r}" if words else ""
        raise CourseError(
            f"this cell should show {error.__name__}{hint}, but it ran: restart the kernel, run from the top"
        )
