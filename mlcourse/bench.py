"""How long one second-order MAML step takes, this package's beside the plain loop and beside other libraries.

Every ratio is of one run: the ways take turns, round after round, on the same batch and the same weights, and their
gradients are compared. Times of different runs, or machines, are not comparable.
"""

import gc
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse import devices, files, learners, memory
from mlcourse.errors import CourseError
from mlcourse.meta_gradients.saved_bytes import saved_bytes

RATE = 0.4  # α of all workloads


@dataclass(frozen=True)
class Workload:
    """One meta-batch of random images: its shape decides the time, its content does not."""

    tasks: int
    shot: int
    query: int
    steps: int
    channels: int
    downsample: str
    in_channels: int = 1
    size: int = 28
    way: int = 5
    network: str = "conv4"  # or "mlp": two layers of `channels` numbers, a network that knows nothing of tasks

    def batch(self, dtype: torch.dtype, device: torch.device) -> SimpleNamespace:
        """support_x, support_y, query_x, query_y with a leading dimension of tasks, as of an Episode."""
        generator = torch.Generator().manual_seed(0)

        def images(each: int) -> tuple[Tensor, Tensor]:
            shape = (self.tasks, self.way * each, self.in_channels, self.size, self.size)
            labels = torch.arange(self.way).repeat_interleave(each).expand(self.tasks, -1)
            return torch.rand(shape, generator=generator, dtype=dtype).to(device), labels.contiguous().to(device)

        (sx, sy), (qx, qy) = images(self.shot), images(self.query)
        return SimpleNamespace(support_x=sx, support_y=sy, query_x=qx, query_y=qy)

    def learner(self, dtype: torch.dtype, device: torch.device, **options: Any) -> learners.Learner:
        if self.network == "mlp":
            built = learners.MAML(self.layers(), inner_steps=self.steps, inner_rate=RATE, **options)
            return built.to(device, dtype).train()
        built = learners.build(
            "maml", way=self.way, in_channels=self.in_channels, size=self.size, seed=0, inner_steps=self.steps,
            channels=self.channels, downsample=self.downsample, inner_rate=RATE, normalisation="batch", **options,
        )  # fmt: skip
        return built.to(device, dtype).train()

    def layers(self) -> nn.Sequential:
        """The network "mlp", always with the same weights."""
        sizes = [self.in_channels * self.size**2, self.channels, self.channels]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
            return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(self.channels, self.way))


# The blocks of W1 are strided (Finn et al. 2017, Omniglot), those of W2 and W3 pool. MLP is as large as their network
# for waves, with 10 points per task.
WORKLOADS = {
    "W1-q1": Workload(tasks=32, shot=1, query=1, steps=1, channels=64, downsample="stride"),
    "W1-q15": Workload(tasks=32, shot=1, query=15, steps=1, channels=64, downsample="stride"),
    "W2": Workload(tasks=4, shot=5, query=15, steps=5, channels=32, downsample="pool"),
    "W3": Workload(tasks=4, shot=5, query=15, steps=5, channels=32, downsample="pool", in_channels=3, size=84),
    "MLP": Workload(tasks=25, shot=2, query=2, steps=5, channels=40, downsample="none", size=1, network="mlp"),
}

# The most GB of memory that one step of the hungriest way takes, `vmap(grad)`: from data/results/bench_maml.json.
# The gradients in float64 are of two tasks at most, and take no more.
PEAK_GB = {"W1-q1": 0.64, "W1-q15": 1.35, "W2": 2.28, "W3": 16.22, "MLP": 0.17}
ROOM_GB = 1.0  # for the process itself, with PyTorch in it

# ------------------------------------------------------------------ the ways to take the step

Step = Callable[[SimpleNamespace], None]  # leaves the meta-gradient in .grad of the network's parameters


def ours(learner: learners.Learner) -> Step:
    return lambda batch: learner.outer_loss(batch)[0].backward()


def tasks_of(batch: SimpleNamespace):
    return zip(batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True)


def vmap(learner: learners.Learner) -> Step:
    """`vmap(grad(task))`: the meta-gradient of one task as a function, mapped over tasks."""
    network, steps = learner.network, learner.inner_steps
    theta = dict(network.named_parameters())

    def loss(params, x, y):
        return F.cross_entropy(functional_call(network, params, (x,)), y)

    def task(params, sx, sy, qx, qy):
        for _ in range(steps):
            grads = torch.func.grad(loss)(params, sx, sy)
            params = {name: value - RATE * grads[name] for name, value in params.items()}
        return loss(params, qx, qy)

    gradient = torch.func.vmap(torch.func.grad(task), in_dims=(None, 0, 0, 0, 0))

    def step(batch):
        start = {name: value.detach() for name, value in theta.items()}
        grads = gradient(start, batch.support_x, batch.support_y, batch.query_x, batch.query_y)
        for name, value in theta.items():
            value.grad = grads[name].mean(0)

    return step


def with_higher(learner: learners.Learner) -> Step:
    """Grefenstette et al., *Generalized Inner Loop Meta-Learning*, 2019, https://arxiv.org/abs/1910.01727."""
    import higher

    network, steps = learner.network, learner.inner_steps
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)

    def step(batch):
        for sx, sy, qx, qy in tasks_of(batch):
            with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (fast, inner):
                for _ in range(steps):
                    inner.step(F.cross_entropy(fast(sx), sy))
                (F.cross_entropy(fast(qx), qy) / len(batch.support_x)).backward()

    return step


def with_torchopt(learner: learners.Learner) -> Step:
    """Ren et al., *TorchOpt: An Efficient Library for Differentiable Optimization*, 2023,
    https://arxiv.org/abs/2211.06934."""
    import torchopt

    network, steps = learner.network, learner.inner_steps

    def step(batch):
        start = torchopt.extract_state_dict(network, by="reference")
        for sx, sy, qx, qy in tasks_of(batch):
            inner = torchopt.MetaSGD(network, lr=RATE)
            for _ in range(steps):
                inner.step(F.cross_entropy(network(sx), sy))
            (F.cross_entropy(network(qx), qy) / len(batch.support_x)).backward()
            torchopt.recover_state_dict(network, start)

    return step


def with_learn2learn(learner: learners.Learner) -> Step:
    """Arnold et al., *learn2learn: A Library for Meta-Learning Research*, 2020, https://arxiv.org/abs/2008.12284."""
    learn2learn = importlib.import_module("learn2learn")  # not declared: it does not build on Python 3.11

    network, steps = learner.network, learner.inner_steps
    maml = learn2learn.algorithms.MAML(network, lr=RATE, first_order=False)

    def step(batch):
        for sx, sy, qx, qy in tasks_of(batch):
            fast = maml.clone()
            for _ in range(steps):
                fast.adapt(F.cross_entropy(fast(sx), sy))
            (F.cross_entropy(fast(qx), qy) / len(batch.support_x)).backward()

    return step


LOOP, FAST = "plain loop", "side by side"
WAYS: dict[str, tuple[Callable[[learners.Learner], Step], bool]] = {  # and whether the learner goes one by one
    LOOP: (ours, True),
    FAST: (ours, False),
    "vmap(grad)": (vmap, True),
    "higher": (with_higher, True),
    "torchopt": (with_torchopt, True),
    "learn2learn": (with_learn2learn, True),
}


def installed() -> list[str]:
    """The ways that this environment can take: its own, and the libraries that import."""
    libraries = ("higher", "torchopt", "learn2learn")
    return [way for way in WAYS if way not in libraries or importlib.util.find_spec(way)]


class Contestant:
    """A way with a learner of its own; all learners start from the same weights."""

    def __init__(self, way: str, workload: Workload, dtype: torch.dtype, device: torch.device):
        make, one_by_one = WAYS[way]
        self.learner = workload.learner(dtype, device, one_by_one=one_by_one)
        self.parameters = list(self.learner.network.parameters())
        self.step = make(self.learner)
        self.device = device

    def run(self, batch: SimpleNamespace) -> float:
        """One step; returns seconds."""
        for p in self.parameters:
            p.grad = None
        gc.collect()  # a library's graph may hold itself in a cycle: gigabytes that would stay while the next way runs
        return timed(lambda: self.step(batch), self.device)

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten().double() for p in self.parameters])


# ------------------------------------------------------------------ measurements


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the work is done, on a GPU too."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Tick = Callable[[], None]  # called after each step


def unheard() -> None:
    """Nobody wants to know how far it is."""


def times(
    ways: list[str], workload: Workload, *, rounds: int, device: torch.device, tick: Tick = unheard
) -> dict[str, list[float]]:
    """Seconds of one step by way, `rounds` of each, taking turns; one round before it does not count."""
    batch = workload.batch(torch.float32, device)
    contestants = {way: Contestant(way, workload, torch.float32, device) for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(rounds + 1):
        for way, contestant in contestants.items():
            taken = contestant.run(batch)
            tick()
            if index:
                seconds[way].append(taken)
    return seconds


def gradient_errors(
    ways: list[str], workload: Workload, device: torch.device, tick: Tick = unheard
) -> dict[str, float]:
    """‖g − g_loop‖ / ‖g_loop‖ of each way in float64, where rounding hides nothing."""
    # two tasks show whether they get mixed up; four of W3 in float64 would take 24 GB
    small = Workload(**asdict(workload) | {"tasks": min(workload.tasks, 2)})
    batch = small.batch(torch.float64, device)
    gradients = {}
    for way in [LOOP, *ways]:
        contestant = Contestant(way, small, torch.float64, device)
        contestant.run(batch)
        tick()
        gradients[way] = contestant.gradient()
    exact = gradients[LOOP]
    return {way: ((gradients[way] - exact).norm() / exact.norm()).item() for way in ways}


def kept_bytes(way: str, workload: Workload, device: torch.device, tick: Tick = unheard) -> int | None:
    """The most bytes that autograd keeps at one moment of the step. None for torch.func, which lets nobody look."""
    if way == "vmap(grad)":
        tick()
        return None
    contestant, batch = Contestant(way, workload, torch.float32, device), workload.batch(torch.float32, device)
    with saved_bytes() as saved:
        contestant.run(batch)
    tick()
    return saved.peak


def operations(workload: Workload) -> int:
    """Floating-point operations of one step of the plain loop: its convolutions and matrix products."""
    from mlcourse.protocols.flop import counted_flops

    one = Workload(**asdict(workload) | {"tasks": 1})
    contestant = Contestant(LOOP, one, torch.float32, torch.device("cpu"))
    return workload.tasks * counted_flops(contestant.run, one.batch(torch.float32, torch.device("cpu")))


def convolution_peak(device: torch.device) -> float:
    """The most operations a second that this machine does in one large 3×3 convolution of float32, forward."""
    x = torch.rand(64, 64, 56, 56, device=device).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(64, 64, 3, padding=1).to(device, memory_format=torch.channels_last)
    best = float("inf")
    with torch.no_grad():
        for _ in range(10):
            best = min(best, timed(lambda: layer(x), device))
    return 2 * 64 * 64 * 64 * 9 * 56 * 56 / best


def peak_memory(way: str, workload: Workload, device: torch.device, tick: Tick = unheard) -> int:
    """Bytes by which a step raises the memory of the process (on a GPU: of the allocator) at its highest moment.

    The process is looked at each millisecond. Call it in a process of its own: memory that is there already hides some.
    """
    contestant, batch = Contestant(way, workload, torch.float32, device), workload.batch(torch.float32, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        contestant.run(batch)
        tick()
        return torch.cuda.max_memory_allocated(device) - before
    process, done = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    contestant.run(batch)
    done.set()
    watcher.join()
    tick()
    return max(seen) - seen[0]


# ------------------------------------------------------------------ processes of their own

# The allocator's setting holds for the life of a process, and so does what it once took of the memory.
TASKS: dict[str, Callable[..., Any]] = {
    "times": times,
    "peak_memory": peak_memory,
    "gradient_errors": gradient_errors,
    "kept_bytes": kept_bytes,
}


STEP = "a step is done"  # what a measurement's process writes after each


def elsewhere(what: str, *, tuned: bool, threads: int, tick: Tick = unheard, **arguments: Any) -> Any:
    """Call a measurement in a new process; tuned: with the allocator that keeps freed memory. tick: after each step."""
    request = {"what": what, "tuned": tuned, "threads": threads, "arguments": arguments}
    answer = ""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "mlcourse.bench"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process,
    ):  # fmt: skip
        with suppress(BrokenPipeError):  # it ended at once: its exit code says so
            process.stdin.write(json.dumps(request))
            process.stdin.close()
        for line in process.stdout:
            if line.strip() == STEP:
                tick()
            else:
                answer = line
        if process.wait():
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"the measurement {what} of {arguments} stopped with exit code {process.wait()}: {last}")
    return json.loads(answer)


def _serve() -> None:
    request = json.loads(sys.stdin.read())
    torch.set_num_threads(request["threads"])
    if request["tuned"]:
        devices.keep_freed_memory()
    arguments = request["arguments"]
    arguments["workload"] = Workload(**arguments["workload"])
    arguments["device"] = devices.pick(arguments["device"])
    print(json.dumps(TASKS[request["what"]](**arguments, tick=lambda: print(STEP, flush=True))))


# ------------------------------------------------------------------ before it starts, and while it works


class Steps:
    """How far the whole benchmark is: its steps, each counted with the work that its workload makes.

    at: told the share that is done (0 to 1) and what is measured.
    """

    def __init__(self, at: Callable[[float, str], None]):
        self.at, self.total, self.done = at, 0.0, 0.0

    def expect(self, workload: Workload, count: int) -> None:
        self.total += count * work(workload)

    def tick(self, workload: Workload, text: str) -> Tick:
        """Say what begins; the result is to be called after each of its steps."""

        def step() -> None:
            self.done += work(workload)
            self.at(self.done / self.total, text)

        self.at(self.done / self.total, text)
        return step


def work(workload: Workload) -> float:
    """The work of one step, up to a factor: operations go with pictures, their pixels, and channels squared."""
    pictures = workload.tasks * workload.way * (3 * workload.steps * workload.shot + workload.query)
    return pictures * workload.size**2 * workload.channels**2 / (4 if workload.downsample == "stride" else 1)


def check_memory(names: list[str], device: torch.device) -> str:
    """What the workloads need and what is free, in one line. Raises CourseError when it is not enough."""
    free = (torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()) / 1e9
    needs = {name: PEAK_GB.get(name, 0.0) + ROOM_GB for name in names}
    fitting = [f"--workload {name}" for name, need in needs.items() if need <= free]
    most = max(needs, key=needs.get)
    if needs[most] > free:
        rest = f"leave it out ({' '.join(fitting)})" if fitting else "close other programs"
        raise CourseError(f"{most} takes up to {needs[most]:.0f} GB of memory, and {free:.1f} GB are free: {rest}")
    return f"{most} takes up to {needs[most]:.0f} GB of memory, {free:.0f} GB are free"


# ------------------------------------------------------------------ the report


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times faster: the median over rounds of the ratio within a round, and its smallest and largest."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "least": min(each), "most": max(each)}


def measure(
    name: str, *, ways: list[str], rounds: int, device: torch.device, peak: float, steps: Steps
) -> dict[str, Any]:
    """All that is measured of one workload, as plain numbers: seconds, bytes, ratios to the plain loop."""
    workload = WORKLOADS[name]
    settings = {"threads": torch.get_num_threads(), "workload": asdict(workload), "device": str(device)}

    def tick(text: str) -> Tick:
        return steps.tick(workload, f"{name}, {text}")

    errors = elsewhere("gradient_errors", tuned=False, ways=ways, tick=tick("gradients in float64"), **settings)
    count = operations(workload)
    report: dict[str, Any] = {"workload": asdict(workload), "operations": count, "ways": {}}
    for tuned in (False, True):
        text = f"times, {'tuned' if tuned else 'default'} allocator"
        seconds = elsewhere("times", tuned=tuned, ways=ways, rounds=rounds, tick=tick(text), **settings)
        for way in ways:
            about = report["ways"].setdefault(way, {"gradient_error": errors[way]})
            median = statistics.median(seconds[way])
            about["tuned allocator" if tuned else "default allocator"] = {
                "seconds": seconds[way],
                "median": median,
                "times_faster_than_loop": ratio(seconds[LOOP], seconds[way]),
                "share_of_peak": count / median / peak,
            }
    for way in ways:
        for key, what in (("saved_bytes", "kept_bytes"), ("peak_bytes", "peak_memory")):
            report["ways"][way][key] = elsewhere(what, tuned=False, way=way, tick=tick(f"memory of {way}"), **settings)
    return report


def growing() -> list[tuple[str, str, int, Workload]]:
    """The cases of `growth`: the workload's name, what is changed in it, to which value, and the result."""
    cases = [("W1-q1", "tasks", n) for n in (4, 8, 16, 32, 64)] + [("W2", "steps", n) for n in (1, 2, 5, 10)]
    return [(name, what, value, Workload(**asdict(WORKLOADS[name]) | {what: value})) for name, what, value in cases]


def growth(*, rounds: int, device: torch.device, steps: Steps) -> list[dict[str, Any]]:
    """How the step grows with tasks (W1-q1) and with inner steps (W2): median seconds and saved bytes."""
    rows = []
    for name, what, value, workload in growing():
        tick = steps.tick(workload, f"growth, {name} with {value} {what}")
        seconds = times([LOOP, FAST], workload, rounds=rounds, device=device, tick=tick)
        for way in (LOOP, FAST):
            kept = kept_bytes(way, workload, device, tick)
            row = {"workload": name, what: value, "way": way, "seconds": statistics.median(seconds[way])}
            rows.append(row | {"saved_bytes": kept})
    return rows


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for."""
    versions = {}
    for library in ("torch", "torchvision", "higher", "torchopt", "learn2learn"):
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def bench(
    names: list[str],
    *,
    rounds: int,
    device: torch.device,
    grow: bool,
    say: Callable[[str], None],
    at: Callable[[float, str], None] = lambda share, text: None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The whole report. say: told what is measured next. out: a JSON file, written anew after each workload.

    at: told after each step which share of the work is done, and what is measured.
    """
    for name in names:
        if name not in WORKLOADS:
            raise CourseError(f"workload {name!r} is unknown; use one of {', '.join(WORKLOADS)}")
    if rounds < 1:
        raise CourseError(f"rounds is {rounds}; give 1 or more (5 for a figure to report)")
    ways = installed()
    say(check_memory(names, device))
    steps = Steps(at)
    for name in names:  # float64, the times twice, two kinds of memory
        steps.expect(WORKLOADS[name], 1 + len(ways) + 2 * (rounds + 1) * len(ways) + 2 * len(ways))
    for *_, workload in growing() if grow else ():
        steps.expect(workload, 2 * (rounds + 1) + 2)
    peak = convolution_peak(device)
    report = {"machine": machine(device), "rounds": rounds, "convolution_peak": peak, "workloads": {}}
    for name in names:
        say(f"{name}: {', '.join(ways)}")
        report["workloads"][name] = measure(name, ways=ways, rounds=rounds, device=device, peak=peak, steps=steps)
        keep(report, out)
    if grow:
        say("growth with tasks and inner steps")
        report["growth"] = growth(rounds=rounds, device=device, steps=steps)
        keep(report, out)
    return report


def keep(report: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        files.write_json(out, report)


if __name__ == "__main__":
    _serve()
