"""Several processes train one learner: each takes its part of the tasks of a step, and their gradients are added up.

    torchrun --nproc-per-node 2 -m mlcourse train maml --out runs/two

Process number r of P ("rank" r of "world" P) takes the tasks r, r + P, r + 2P, … of each step. The outer loss is a mean
over tasks, so the sum of the processes' gradients, each weighted by its share of the tasks, is the gradient that one
process finds on all of them. Every process draws all tasks, from the same generator, and so knows which are its own.
All take the same step of the optimizer, and so hold the same parameters; only the first one writes and prints.

What depends on other tasks of a step is shared, too: batch normalisation that keeps running averages takes its mean and
variance over the pictures of ALL processes (as in one process), so that the running averages are the same everywhere;
what else a learner averages in its buffers moves by the mean over all tasks.
A number that a learner draws for each task (`episodes.uniform_of_tasks`) is that task's in one process. Three things
are not: a learner of one's own that normalises one task after another normalises one of each process together; dropout
and augmentation of pictures have other noise; and where a loss is no mean over tasks (a sum divided by how many boxes a
batch shows), it is the mean over the processes' parts, as with `accumulate`.

`training.train` finds the processes by itself (`current`); the command joins them (`join`). Li et al., *PyTorch
Distributed: Experiences on Accelerating Data Parallel Training*, 2020, https://arxiv.org/abs/2006.15704.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mlcourse.episodes import PartOfGenerator
from mlcourse.errors import CourseError
from mlcourse.networks.normalisation import BatchStatistics

TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun says to each process
HOW = "torchrun --nproc-per-node N -m mlcourse train METHOD …"
LONGEST = timedelta(minutes=30)  # that processes wait for each other: the first one alone validates
APART = 2**40  # between the seeds of two processes' dropout


class Alone:
    """One process, which is all there is: nothing is shared out, nothing is added up."""

    rank, world = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes, prints and validates."""
        return self.rank == 0

    @property
    def noise(self) -> int:
        """What is added to the seed of dropout: other noise in each process."""
        return self.rank * APART

    def check(self, learner: nn.Module, tasks: int, accumulate: int) -> None:
        """Raise CourseError where a step of so many tasks cannot be shared out."""

    def agree(self, learner: nn.Module, step: int, settings: dict[str, Any]) -> None:
        """Let all processes begin with the parameters of the first. Raise CourseError where they begin differently."""

    def part(self, batch: Any) -> tuple[Any, float]:
        """This process's tasks of a batch, and their share of all."""
        return batch, 1.0

    def draws(self, generator: torch.Generator, accumulate: int) -> torch.Generator:
        """What the learner draws from in a step, after `part`."""
        return generator

    @contextmanager
    def apart(self, learner: nn.Module) -> Iterator[None]:
        """Inside, each process is on its own, but for the statistics that `learner` keeps of all pictures."""
        yield

    def added(self, parameters: list[nn.Parameter], loss: float, parts: list) -> tuple[float, list]:
        """Add up all processes' gradients, in place, and their losses; and put their lists of metrics together."""
        return loss, parts

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process."""
        return flag

    def from_first(self, work: Callable[[], Any]) -> Any:
        """What `work()` returns in the first process, in all of them; or its CourseError."""
        return work()

    def quiet(self) -> None:
        """Let only the first process print to stdout."""

    def place(self, device: torch.device) -> torch.device:
        """The device of this process: of several GPUs each process takes one."""
        return device

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process goes through the block before the others: it makes or fetches what they then find."""
        yield

    def leave(self) -> None:
        """Part in peace at the end."""


class Processes(Alone):
    """One of several. The collectives raise CourseError where another process is gone."""

    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world
        self.tasks, self.share = 0, 1.0  # of all processes, and this one's share of them, in the step at hand
        self.given: torch.Generator | None = None  # of the training
        self.drawing: torch.Generator | None = None  # of the learner, in the step at hand

    # ------------------------------------------------------------------ before the first step

    def check(self, learner: nn.Module, tasks: int, accumulate: int) -> None:
        name = type(learner).__name__
        if not getattr(learner, "accumulates", True):
            raise CourseError(
                f"{name} takes its tasks in one go, since each outer loss is a step of theirs; train it in one process"
            )
        if self.world > tasks:
            raise CourseError(
                f"{self.world} processes are more than the {tasks} tasks of a step, and each needs one; start "
                f"{tasks} at most, or give a step more tasks (--tasks)"
            )
        if tasks % self.world and _shared(learner) and "method" not in getattr(learner, "config", {}):
            raise CourseError(
                f"{tasks} tasks do not divide into {self.world} equal parts, and {name} has batch normalisation over "
                "the pictures of all processes: one that goes through its tasks one by one would wait for ever; give "
                f"a step {tasks + self.world - tasks % self.world} tasks"
            )
        if accumulate > 1 and (tasks % self.world or accumulate > tasks // self.world):
            raise CourseError(
                f"accumulate is {accumulate}, but {tasks} tasks in {self.world} processes do not divide into as many "
                f"equal parts; leave it at 1, or take up to {tasks // self.world} where the processes divide the tasks"
            )

    def agree(self, learner: nn.Module, step: int, settings: dict[str, Any]) -> None:
        mine = {"step": step} | {name: repr(value) for name, value in settings.items() if name != "device"}
        for rank, theirs in enumerate(self.gathered(mine)):
            for name in mine.keys() | theirs.keys():
                if mine.get(name) != theirs.get(name):
                    raise CourseError(
                        f"process {self.rank} has {name} = {mine.get(name)}, process {rank} has {theirs.get(name)}; "
                        "start all with the same command, and let all see the same folder --out"
                    )
        for value in learner.state_dict().values():
            whole = value.clone(memory_format=torch.contiguous_format)
            self._all(dist.broadcast, whole, src=0)
            value.copy_(whole)

    # ------------------------------------------------------------------ in a step

    def part(self, batch: Any) -> tuple[Any, float]:
        if hasattr(batch, "part") and hasattr(batch, "tasks"):
            mine, self.tasks = batch.part(self.rank, self.world), batch.tasks
            self.share = mine.tasks / self.tasks
            return mine, self.share
        if isinstance(batch, tuple):
            mine, self.tasks = tuple(tensor[self.rank :: self.world] for tensor in batch), len(batch[0])
            self.share = len(mine[0]) / self.tasks
            return mine, self.share
        raise CourseError(f"a batch of type {type(batch).__name__} cannot be shared out; train it in one process")

    def draws(self, generator: torch.Generator, accumulate: int) -> torch.Generator:
        self.given, self.drawing = generator, PartOfGenerator.like(generator)
        if accumulate == 1:
            self.drawing.part = (self.tasks, self.rank, self.world)
        return self.drawing

    @contextmanager
    def apart(self, learner: nn.Module) -> Iterator[None]:
        shared = _shared(learner)
        before = {name: value.clone() for name, value in _moving(learner)}
        for norm in shared:
            norm.forward = partial(normalised_over_all, norm, self)
        _Word.own = True  # an error in here is this process's own; it stays so when one comes out
        try:
            yield
        finally:
            for norm in shared:
                del norm.forward
        self._average_moves(learner, before)
        _Word.own = False

    def _average_moves(self, learner: nn.Module, before: dict[str, Tensor]) -> None:
        """Other averages that a learner keeps in its buffers move by the mean over all tasks."""
        moving = [(value, before.get(name, torch.zeros_like(value))) for name, value in _moving(learner)]
        # what did not move stays out of it: -inf minus -inf is no number
        moves = [torch.where(now == was, torch.zeros_like(now), now - was) * self.share for now, was in moving]
        for (now, was), move in zip(moving, self.summed_all(moves), strict=True):
            now.copy_(torch.where(move == 0, was, was + move))

    def added(self, parameters: list[nn.Parameter], loss: float, parts: list) -> tuple[float, list]:
        there = parameters[0].new_tensor([p.grad is not None for p in parameters])
        each = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
        anywhere, *sums = self.summed_all([there, *each])
        for p, gradient, used, whole in zip(parameters, each, anywhere.tolist(), sums, strict=True):
            p.grad = gradient.copy_(whole) if used else None  # in the layout that it has
        told = self.gathered((loss, parts, self.drawing.get_state()))
        self.given.set_state(told[0][2])  # a learner's draws may depend on how many tasks it has
        return sum(loss for loss, _, _ in told), [part for _, parts, _ in told for part in parts]

    def any(self, flag: bool) -> bool:
        return bool(self.summed(torch.tensor([float(flag)])).item())

    # ------------------------------------------------------------------ around the steps

    def from_first(self, work: Callable[[], Any]) -> Any:
        told, failed = [None, None], None
        if self.first:
            try:
                told = [work(), None]
            except CourseError as error:
                told, failed = [None, str(error)], error
        self._all(dist.broadcast_object_list, told, src=0)
        if told[1] is not None:
            raise failed or CourseError(told[1])
        return told[0]

    def quiet(self) -> None:
        if not self.first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends

    def place(self, device: torch.device) -> torch.device:
        if device.type != "cuda" or device.index is not None:
            return device
        local, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if local >= there:
            raise CourseError(
                f"{local + 1} processes or more are on this machine, which has {there} GPU(s), and each takes one; "
                f"start with --nproc-per-node {there}"
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        if not self.first:
            self._all(dist.barrier)
        yield
        if self.first:
            self._all(dist.barrier)

    def leave(self) -> None:
        dist.destroy_process_group()

    # ------------------------------------------------------------------ messages

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place of `tensor`."""
        self._all(dist.all_reduce, tensor)
        return tensor

    def summed_all(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sum of each tensor over all processes: one message for each number format, however many they are."""
        found: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(one.dtype for one in tensors):
            some = [number for number, one in enumerate(tensors) if one.dtype == dtype]
            flat = self.summed(torch.cat([tensors[number].flatten() for number in some]))
            parts = flat.split([tensors[number].numel() for number in some])
            found |= {number: part.view(tensors[number].shape) for number, part in zip(some, parts, strict=True)}
        return [found[number] for number in range(len(tensors))]

    def gathered(self, told: Any) -> list[Any]:
        """What each process tells, in their order."""
        found = [None] * self.world
        self._all(dist.all_gather_object, found, told)
        return found

    def _all(self, collective: Callable, *arguments: Any, **options: Any) -> None:
        """A collective, in which all processes take part. Raises CourseError where one of them is gone."""
        try:
            collective(*arguments, **options)
        except RuntimeError as error:  # gloo's and NCCL's
            _Word.own = True  # whoever notices says so: the first process may be the one that is gone
            why = " ".join(str(error).split())
            raise CourseError(
                "another process of this training is gone, or cannot be reached, so that no step can be done: look for "
                f"its own line, then start all again with --resume ({why[:120]})"
            ) from error


class _Word:
    own = False  # whether the error at hand is this process's own


def speaks() -> bool:
    """Whether this process is to say its warnings and errors: the first one, or one that is alone with its error."""
    return current().first or _Word.own


def current() -> Alone:
    """The processes that train together with this one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Processes(dist.get_rank(), dist.get_world_size())
    return Alone()


def join() -> Alone:
    """Join the processes that torchrun started, if it did. NCCL carries what lies on GPUs, gloo what lies elsewhere.

    Raises CourseError where the environment tells only a part of what torchrun tells, or where a process is missing.
    """
    told = {name: os.environ.get(name) for name in TOLD}
    if (told["WORLD_SIZE"], told["RANK"]) in ((None, None), ("1", "0")):
        return Alone()
    missing = [name for name, value in told.items() if value is None]
    if missing:
        there = [name for name, value in told.items() if value is not None]
        raise CourseError(
            f"{there[0]} is set in the environment, but {', '.join(missing)} is not; start several processes with "
            f"{HOW}, or unset {there[0]} for one"
        )
    numbers = {name: told[name] for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")}
    for name, value in numbers.items():
        if not value.isdecimal():
            raise CourseError(f"{name} is {value!r} in the environment, no whole number; start with {HOW}")
    if not 0 < int(told["MASTER_PORT"]) < 2**16:
        raise CourseError(f"MASTER_PORT is {told['MASTER_PORT']}, but ports go from 1 to 65535; start with {HOW}")
    world, rank = int(told["WORLD_SIZE"]), int(told["RANK"])
    if rank >= world:
        raise CourseError(f"RANK is {rank}, but {world} processes are numbered 0 to {world - 1}; start with {HOW}")
    if world == 1:
        return Alone()
    if not dist.is_available():
        raise CourseError("this PyTorch is built without torch.distributed; train in one process")
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=LONGEST)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:120]
        raise CourseError(f"the {world} processes did not find each other ({why}); start them with {HOW}") from error
    return current()


# ------------------------------------------------------------------ statistics of all pictures


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of their gradients: each of them used it."""

    @staticmethod
    def forward(ctx, tensor: Tensor, together: Processes) -> Tensor:
        ctx.together = together
        return together.summed(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _Sum.apply(gradient, ctx.together), None


def _moving(learner: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that may hold averages, by name."""
    return [(name, value) for name, value in learner.named_buffers() if value.is_floating_point()]


def _shared(learner: nn.Module) -> list[nn.Module]:
    """The layers whose statistics are of all processes' pictures."""
    of_images = getattr(learner, "trains_on", "episodes") == "images"  # one batch: its statistics are of all
    return [norm for norm in learner.modules() if _shares(norm, of_images)]


def _shares(norm: nn.Module, of_images: bool) -> bool:
    """Whether a layer's statistics are of all pictures of a step, and not of one task's."""
    if isinstance(norm, BatchStatistics):
        return of_images
    kept = isinstance(norm, nn.modules.batchnorm._BatchNorm) and not isinstance(norm, nn.SyncBatchNorm)
    return kept and (norm.track_running_stats or of_images)


def normalised_over_all(norm: nn.Module, together: Processes, x: Tensor, *more: Any) -> Tensor:
    """Batch normalisation of x [images, channels, …] with mean and variance over the images of all processes.

    What one process computes on all of them, running averages included (those take the variance over n − 1). Outside of
    training, and with a `reference`, the layer is as ever.
    """
    keeps = getattr(norm, "track_running_stats", False)
    if (isinstance(norm, BatchStatistics) and any(one is not None for one in more)) or not norm.training:
        return type(norm).forward(norm, x, *more)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    over, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    count = wide.new_tensor([x.numel() // x.shape[1]])
    sums = _Sum.apply(torch.cat([wide.sum(over), count]), together)
    n = sums[-1].detach()
    mean = sums[:-1] / n
    centred = wide - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(over), together) / n
    if keeps:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            rate = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            # `data`, as PyTorch's own layer moves them unseen: an earlier pass in evaluation mode may have kept them
            norm.running_mean.data.lerp_(mean.to(norm.running_mean.dtype), rate)
            norm.running_var.data.lerp_((variance * (n / (n - 1))).to(norm.running_var.dtype), rate)
    y = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.weight is not None:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)
