"""MAML: meta-learn a start from which a few steps of gradient descent on the support set suffice.

Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, 2017,
https://arxiv.org/abs/1703.03400.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, State, answer_each, way_of


class MAML(Learner):
    """θ is the start of the network; adapt runs T inner steps; the meta-gradient goes through all of them.

    network: with a head of `way` logits, called as `network(x, reference)`. steps: T. inner_rate: α.
    first_order: drop the second-order term (first-order MAML, "FOMAML"). evaluation_steps: T outside of training.
    one_by_one: adapt one task after another, also where the network can take all tasks side by side (`network.wide`).
    The normalisation is the network's: `batch` (the paper's, transductive), `support`, `group` or `none`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int = 5,
        inner_rate: float = 0.4,
        first_order: bool = False,
        evaluation_steps: int | None = None,
        one_by_one: bool = False,
    ):
        super().__init__()
        for name, value in (("steps", steps), ("evaluation_steps", evaluation_steps)):
            if value is not None and value < 0:
                raise CourseError(f"{name} is {value}; an inner loop takes 0 steps or more")
        if network.normalisation == "running":
            raise CourseError(
                "normalisation 'running' keeps one average for all tasks, which MAML's adapted networks do not share; "
                "use batch, support, group or none"
            )
        self.network = network
        self.steps = steps
        self.evaluation_steps = steps if evaluation_steps is None else evaluation_steps
        self.inner_rate = inner_rate
        self.first_order = first_order
        self.normalisation = network.normalisation
        self.side_by_side = hasattr(network, "wide") and not one_by_one

    def call(self, params: inner.Parameters, x: Tensor, reference: int | None = None) -> Tensor:
        """The network's logits for the images x of one task, with `params` in place of its own parameters."""
        return functional_call(self.network, params, (x, reference))

    def call_wide(self, params: inner.Parameters, x: Tensor, reference: int | None = None) -> Tensor:
        """The same for all tasks side by side. Frozen parameters are the same for all tasks, and are not adapted."""
        frozen = {n: p.expand(len(x), *p.shape) for n, p in self.network.named_parameters() if not p.requires_grad}
        return self.network.wide(frozen | params, x, reference)

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """T inner steps for each task. `state["fast"]` holds θ_inner* by name, with a leading dimension of tasks."""
        head = getattr(getattr(self.network, "head", None), "out_features", None)
        way_of(support_y, at_most=head, who="this MAML")
        if steps is None:
            steps = self.steps if self.training else self.evaluation_steps
        settings = {
            "steps": steps,
            "rate": self.inner_rate,
            "first_order": self.first_order,
            "create_graph": torch.is_grad_enabled(),
        }
        theta = inner.parameters(self.network)
        adapt = self.adapt_side_by_side if self.side_by_side else self.adapt_one_by_one
        return {"fast": adapt(theta, support_x, support_y, settings), "support_x": support_x}

    def adapt_one_by_one(self, theta, support_x, support_y, settings) -> inner.Parameters:
        """The plain loop: one task after another. It is the reference for the other way."""
        fast = [inner.adapt(self.call, theta, x, y, **settings) for x, y in zip(support_x, support_y, strict=True)]
        return {name: torch.stack([task[name] for task in fast]) for name in theta}

    def adapt_side_by_side(self, theta, support_x, support_y, settings) -> inner.Parameters:
        """All tasks in one wide network. Tasks do not touch: the gradient of the sum holds each task's own gradient."""
        copies = {name: value.expand(len(support_x), *value.shape) for name, value in theta.items()}
        return inner.adapt(self.call_wide, copies, support_x, support_y, loss=summed_cross_entropy, **settings)

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        if self.side_by_side:
            if self.normalisation != "support":
                return self.call_wide(state["fast"], query_x)
            n = state["support_x"].shape[1]
            return self.call_wide(state["fast"], torch.cat([state["support_x"], query_x], 1), n)[:, n:]
        fast = [dict(zip(state["fast"], values, strict=True)) for values in zip(*state["fast"].values(), strict=True)]
        return answer_each(self.call, fast, state, query_x, self.normalisation)


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """L_inner of each task, a mean over its images, summed over tasks: [tasks, images, way] → scalar."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
