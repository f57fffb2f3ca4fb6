"""How much a learner computes, counted by PyTorch: floating-point operations of convolutions and products of matrices.

Counted are the operations that PyTorch carries out, forward and backward, as `torch.utils.flop_counter` knows them; an
addition and a multiplication are two. Normalisation, ReLU, distances by subtraction and the optimizer's own step are
not counted: they are small. It is a figure of the method, the same on every machine; seconds are not.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlcourse.episodes import Episode
from mlcourse.evaluation import home_of
from mlcourse.learners.base import evaluation_mode


def counted_flops(function: Callable, *arguments: Any) -> int:
    """FLOP of `function(*arguments)` as PyTorch carries it out: forward, and backward where the function calls it.

    counted_flops(lambda: learner.outer_loss(batch)[0].backward())
    """
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def count(learner: nn.Module, episode: Episode, about: dict[str, Any], device: Any = "cpu") -> dict[str, int | None]:
    """FLOP of one `episode`, of one outer step as a run's config tells it, and of all its steps.

    episode: one task of the protocol. None where a run does not say what a step was, or trained on images.
    """
    step = of_step(learner, about, tuple(episode.support_x.shape[2:]), device)
    steps = about.get("steps_done", about.get("steps"))
    of_training = None if step is None or steps is None else step * steps
    return {"episode": of_episode(learner, episode, device), "step": step, "training": of_training}


def of_episode(learner: nn.Module, episode: Episode, device: Any = "cpu") -> int:
    """To adapt to one task and to answer all its queries."""
    episode = episode.to(device, home_of(learner)[1])
    with torch.no_grad(), evaluation_mode(learner):
        return counted_flops(learner, episode.support_x, episode.support_y, episode.query_x)


def of_step(learner: nn.Module, about: dict[str, Any], shape: tuple[int, ...], device: Any = "cpu") -> int | None:
    """One outer step: the outer loss of a meta-batch and its gradient, on a copy of the learner and on noise."""
    wanted = ("tasks", "train_way", "train_query", "shot")
    if getattr(learner, "trains_on", None) != "episodes" or not all(isinstance(about.get(one), int) for one in wanted):
        return None
    tasks, way, query, shot = (about[one] for one in wanted)
    task = noise(way, shot, query, shape).to(device, home_of(learner)[1])
    twin = copy.deepcopy(learner).train()
    with FlopCounterMode(display=False) as counter:
        loss, _ = twin.outer_loss(task, generator=torch.Generator().manual_seed(0))
        if not loss.requires_grad:  # all of it is frozen: no step moves anything
            return None
        loss.backward()
    return tasks * counter.get_total_flops()


def noise(way: int, shot: int, query: int, shape: tuple[int, ...]) -> Episode:
    """One task of random pictures: what is counted depends on their number and shape only."""
    generator = torch.Generator().manual_seed(0)
    labels = [torch.arange(way).repeat_interleave(n).unsqueeze(0) for n in (shot, query)]
    support_x, query_x = (torch.rand(*y.shape, *shape, generator=generator) for y in labels)
    return Episode(support_x, labels[0], query_x, labels[1], torch.arange(way).unsqueeze(0))
