"""MAML and its relatives: meta-learn a start from which a few steps of gradient descent on the support set suffice.

All are one inner loop with options of `MAML`:

- MAML, and first_order=True (first-order MAML, "FOMAML"): Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning for Fast
  Adaptation of Deep Networks*, 2017, https://arxiv.org/abs/1703.03400.
- `ANIL`, which adapts the head only: Raghu, Raghu, Bengio, Vinyals, *Rapid Learning or Feature Reuse? Towards
  Understanding the Effectiveness of MAML*, 2020, https://arxiv.org/abs/1909.09157.
- learned_rates="entry" (Meta-SGD): Li, Zhou, Chen, Li, *Meta-SGD: Learning to Learn Quickly for Few-Shot Learning*,
  2017, https://arxiv.org/abs/1707.09835.
- learned_rates="layer", norm_per_step=True, every_step_until, first_order_until (MAML++): Antoniou, Edwards, Storkey,
  *How to train your MAML*, 2019, https://arxiv.org/abs/1810.09502.
- zero_head=True: Kao, Chiu, Chen, *MAML is a Noisy Contrastive Learner in Classification*, 2022,
  https://arxiv.org/abs/2106.15367.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.utils.parametrize import is_parametrized

from mlcourse import inner
from mlcourse.errors import CourseError, check_whole
from mlcourse.learners.base import Learner, State, evaluation_mode, way_of
from mlcourse.learners.methods import Paper, Recipe, register
from mlcourse.meta_gradients.surrogate import with_zeros
from mlcourse.networks import BatchStatistics, normalisation_of, normalisations_in, parts

NORMALISES = (BatchStatistics, nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)
CONVOLVES = nn.modules.conv._ConvNd
DROPS = nn.modules.dropout._DropoutNd


class MAML(Learner):
    """θ is the start of the network; adapt runs T inner steps; the meta-gradient goes through all of them.

    network: any module with `way` logits, called as `network(x)`, or with `support` normalisation as
    `network(x, reference)`. Tasks with fewer classes use the first logits only, in both losses. Targets that are floats
    (regression) are met in the mean squared error. The normalisation is the network's: `batch` (the paper's,
    transductive), `support`, `group` or `none`.

    inner_steps: T. inner_rate: α. evaluation_inner_steps: T outside of training. one_by_one: adapt one task after
    another, also where all can go side by side: in one wide network (`network.wide`), or by `torch.func.vmap` (see
    `side_by_side`).

    How the meta-gradient is obtained: first_order drops the second-order term (first-order MAML, "FOMAML"); truncate=K
    keeps it for the last K steps; checkpoint=n does each n steps again in backward and saves memory.

    learned_rates: None; "entry", a learned rate for each single weight (Meta-SGD; the paper starts them at random, here
    all start at α); or "layer", one for each tensor and inner step (MAML++), all from α, of any sign they like.

    zero_head: the head starts at zero for every class, not at learned weights. So no class comes with a preference of
    its own, and the number of classes is free: training may have more of them than the test. That α means the same for
    any number, the inner loss is then the mean over images times the number of classes: with equally many images of
    each, the sum over the classes of a class's mean. (One learned row that all classes share, as in UnicornMAML, Ye and
    Chao 2022, https://arxiv.org/abs/2106.16245, is the same learner: what all logits have in common, softmax and its
    gradients do not see.)

    The rest of MAML++: every_step_until=N: the query loss after each inner step counts 1/T at outer step 0; up to outer
    step N all the weight moves, linearly, to the last one. first_order_until=N: outer steps below N are first-order.
    norm_per_step: φ_t, t = 0 … T, has normalisation gains and biases of its own, which are outer parameters and are not
    adapted. (The paper also keeps running averages for each step. Here no normalisation of a MAML network keeps any.)
    """

    mixed_precision = False  # a gradient through rounded gradients points elsewhere: cosine 0.7, measured
    renamed = MappingProxyType({"steps": "inner_steps", "evaluation_steps": "evaluation_inner_steps"})
    shares_body = False  # whether all tasks keep the same weights, but for the head

    def __init__(
        self,
        network: nn.Module,
        *,
        inner_steps: int = 5,
        inner_rate: float = 0.4,
        first_order: bool = False,
        evaluation_inner_steps: int | None = None,
        one_by_one: bool = False,
        truncate: int | None = None,
        checkpoint: int | None = None,
        learned_rates: str | None = None,
        every_step_until: int = 0,
        first_order_until: int = 0,
        norm_per_step: bool = False,
        zero_head: bool = False,
    ):
        super().__init__()
        parts.check_ready(network)
        self.normalisation = normalisation_of(network)
        if "running" in normalisations_in(network) and not self.shares_body:
            raise CourseError(
                "normalisation 'running' keeps one average for all tasks, which MAML's adapted networks do not share; "
                "use batch, support, group or none (of PyTorch's: BatchNorm2d(track_running_stats=False))"
            )
        if self.normalisation == "support" and not parts.takes_reference(network):
            raise CourseError("normalisation 'support' needs a network that is called as network(x, reference)")
        check_whole("inner_steps", inner_steps)
        _check_given(0, evaluation_inner_steps=evaluation_inner_steps, truncate=truncate)
        _check_given(0, every_step_until=every_step_until, first_order_until=first_order_until)
        _check_given(1, checkpoint=checkpoint)
        if not 0 <= inner_rate < math.inf:
            raise CourseError(f"inner_rate is {inner_rate}; descent needs a finite rate, 0 or more")
        if checkpoint and (learned_rates == "layer" or norm_per_step or every_step_until or truncate is not None):
            raise CourseError("checkpoint needs inner steps that are all alike; leave it out beside MAML++ or truncate")
        if checkpoint and any(isinstance(part, DROPS) for part in network.modules()):
            raise CourseError("checkpoint does each step again, with other dropout; leave out one of the two")
        self.network = network
        self.zero_head = zero_head
        if zero_head:
            parts.exchange(network, getattr(network, "head", None), _one_row(network))
        self.inner_steps = inner_steps
        self.evaluation_inner_steps = inner_steps if evaluation_inner_steps is None else evaluation_inner_steps
        self.inner_rate = inner_rate
        self.first_order, self.truncate, self.checkpoint = first_order, truncate, checkpoint
        self.every_step_until, self.first_order_until = every_step_until, first_order_until
        self.one_by_one = one_by_one
        self._mappable = True
        self.gains = _gains(network, inner_steps + 1) if norm_per_step else nn.ParameterDict()
        self.learned_rates = learned_rates
        self.rates = _rates(learned_rates, self.start(), inner_rate, max(1, inner_steps))

    # ------------------------------------------------------------------ the network, as a pure function

    def start(self) -> inner.Parameters:
        """θ by name: what the inner process starts from and adapts."""
        gains = self._gains_at(0)  # outer parameters of each step, which are not adapted
        found = inner.parameters(self.network) | (self.head_start() if self.zero_head else {})
        return {name: value for name, value in found.items() if name not in gains}

    def head_start(self) -> inner.Parameters:
        """θ of the head; with zero_head one row of zeros, which each class gets a copy of."""
        head = inner.parameters(self.network.head)
        if self.zero_head:
            head = inner.all_parameters(self.network.head)
            head = {name: value.detach().requires_grad_() for name, value in head.items()}
        return {f"head.{name}": value for name, value in head.items()}

    def call(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        """The network's answer for the images x of one task, with `params` in place of its own parameters.

        step: t of φ_t, for what changes with it (norm_per_step).
        """
        arguments = (x,) if reference is None else (x, reference)
        return inner.call(self.network, self._gains_at(step) | params, *arguments)

    def side_by_side(self, x: Tensor) -> bool:
        """Whether all tasks go through the network at once, as images x [tasks, images, …].

        By `vmap` a network without `wide` does so, too. Measured on 2 cores against the loop: layers of 40 numbers 5 to
        7 times as fast, of 784 as fast, convolutions 0.6 to 0.8 times (in second order PyTorch takes the groups of a
        convolution one after another), so that on a CPU networks with convolutions go task by task.
        """
        if self.one_by_one or parts.runs_wide(self.network):
            return not self.one_by_one
        convolves = any(isinstance(part, CONVOLVES) for part in self.network.modules())
        return self._mappable and not (convolves and x.device.type == "cpu")

    @property
    def mappable(self) -> bool:
        """Whether `vmap` takes the network: yes, until it said that it does not."""
        return self._mappable

    def call_wide(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        """The same for all tasks side by side. What is not adapted is the same for all tasks."""
        if not parts.runs_wide(self.network):
            return self.call_mapped(params, x, reference, step)
        shared = inner.all_parameters(self.network) | self._gains_at(step)
        copies = {name: p.expand(len(x), *p.shape) for name, p in shared.items() if name not in params}
        return self.network.wide(inner.by_every_name(self.network, copies | params), x, reference)

    def call_mapped(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        """The same by `vmap`, and where that cannot (an `if` that looks at numbers, …) one task after another.

        Only the forward pass is mapped: autograd then sees ordinary operations on all tasks. (Derivatives of a mapped
        `torch.func.grad` are wrong through batch normalisation, which treats its saved mean as a constant.)
        """
        if self._mappable:
            try:
                # dropout: other draws for each task, as in the loop
                return vmap(lambda p, images: self.call(p, images, reference, step), randomness="different")(params, x)
            except (RuntimeError, TypeError, ValueError) as error:
                if isinstance(error, CourseError):
                    raise
        answer = self.call_each(params, x, reference, step)
        self._mappable = False  # the fault was vmap's, not that of what it was given
        return answer

    def call_each(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        """The same, one task after another."""
        each = [dict(zip(params, values, strict=True)) for values in zip(*params.values(), strict=True)]
        return torch.stack([self.call(p, images, reference, step) for p, images in zip(each, x, strict=True)])

    def call_tasks(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        """The same, side by side where it can be: [tasks, images, …] → [tasks, images, way]."""
        call = self.call_wide if self.side_by_side(x) else self.call_each
        return call(params, x, reference, step)

    def _gains_at(self, step: int) -> inner.Parameters:
        """The normalisation's gains and biases of φ_t; after the last trained step, the last."""
        return {parts.name_of(key): value[min(step, len(value) - 1)] for key, value in self.gains.items()}

    # ------------------------------------------------------------------ the inner process

    def rate(self, step: int) -> float | inner.Parameters:
        """α of inner step t: one number, or learned rates by name."""
        if not self.rates:
            return self.inner_rate
        rates = {parts.name_of(key): value for key, value in self.rates.items()}
        if self.learned_rates == "entry":
            return rates
        return {name: value[min(step, len(value) - 1)] for name, value in rates.items()}

    def inner_process(self, support_x: Tensor, support_y: Tensor, inner_steps=None, **_) -> State:
        """T inner steps for each task. `state["fast"]` holds θ_inner* by name, with a leading dimension of tasks."""
        return self.states(support_x, support_y, inner_steps=inner_steps)[-1]

    def states(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        inner_steps: int | None = None,
        first_order: bool | None = None,
        every_step: bool = False,
    ) -> list[State]:
        """The state after the last inner step; with every_step, those of φ_1, …, φ_T (of φ_0 where T = 0)."""
        if inner_steps is None:
            inner_steps = self.inner_steps if self.training else self.evaluation_inner_steps
        way = self._way(support_y)
        settings = {
            "inner_steps": inner_steps,
            "first_order": self.first_order if first_order is None else first_order,
            "every_step": every_step,
        }
        theta = self.start()
        if self.zero_head:
            theta |= _rows(theta, way)
        adapt = self.adapt_side_by_side if self.side_by_side(support_x) else self.adapt_one_by_one
        path = adapt(theta, support_x, support_y, way, settings)
        numbered = enumerate(path, inner_steps - len(path) + 1)
        return [{"fast": fast, "step": t, "support_x": support_x, "way": way} for t, fast in numbered]

    def adapt_one_by_one(self, theta, support_x, support_y, way, settings) -> list[inner.Parameters]:
        """The plain loop: one task after another. It is the reference for the other way."""

        of_all = self.summed(way)

        def loss(prediction, target):
            return of_all(prediction.unsqueeze(0), target.unsqueeze(0))

        paths = []
        for x, y in zip(support_x, support_y, strict=True):
            start = {name: value.view_as(value) for name, value in theta.items()}  # adds up its gradients task by task
            paths.append(self.unroll(self.call, start, x, y, loss=loss, **settings))
        return [{name: torch.stack([fast[name] for fast in at]) for name in theta} for at in zip(*paths, strict=True)]

    def adapt_side_by_side(self, theta, support_x, support_y, way, settings) -> list[inner.Parameters]:
        """All tasks in one wide network. Tasks do not touch: the gradient of the sum holds each task's own gradient."""
        copies = {name: value.expand(len(support_x), *value.shape) for name, value in theta.items()}
        return self.unroll(self.call_wide, copies, support_x, support_y, loss=self.summed(way), **settings)

    def summed(self, way: int | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The inner losses of tasks, summed: [tasks, images, …] → scalar. Each is a mean over the task's images, with
        zero_head times its number of classes."""
        classes = way if self.zero_head else 1
        return lambda prediction, target: classes * len(target) * self.loss(prediction[..., :way], target)

    def unroll(
        self,
        call: Callable[..., Tensor],
        params: inner.Parameters,
        x: Tensor,
        y: Tensor,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        inner_steps: int,
        first_order: bool,
        every_step: bool = False,
    ) -> list[inner.Parameters]:
        """The inner loop, of one task or of all side by side: [φ_T], or with every_step [φ_1, …, φ_T]."""
        settings = {"loss": loss, "create_graph": torch.is_grad_enabled()}
        if self.checkpoint and not first_order:
            settings |= {"steps": inner_steps, "rate": self.rate(0)}
            return [inner.adapt_checkpointed(call, params, x, y, every=self.checkpoint, **settings)]
        path = [inner.adapt(call, params, x, y, steps=0, rate=0.0, **settings)]
        for t in range(inner_steps):
            cut = first_order or (self.truncate is not None and t < inner_steps - self.truncate)
            options = {"steps": 1, "rate": self.rate(t), "first_order": cut}
            fast = inner.adapt(partial(call, step=t), path[-1], x, y, **options, **settings)
            path = [*path, fast] if every_step and t > 0 else [fast]
        return path

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        """Logits [tasks, queries, way], or values."""
        n = state["support_x"].shape[1] if self.normalisation == "support" else 0
        x = torch.cat([state["support_x"], query_x], 1) if n else query_x
        return self.call_tasks(state["fast"], x, n or None, state["step"])[:, n:][..., : state["way"]]

    def _way(self, support_y: Tensor) -> int | None:
        """The number of classes, or None for regression."""
        if support_y.is_floating_point():
            return None
        head = None if self.zero_head else getattr(getattr(self.network, "head", None), "out_features", None)
        return way_of(support_y, at_most=head, who=f"this {type(self).__name__}")

    # ------------------------------------------------------------------ the outer loss

    def step_weights(self, step: int | None) -> list[float]:
        """How much the query loss after each inner step counts, at outer step `step`: T weights that add up to 1.

        None: the annealing is over, and only the last step counts.
        """
        annealed = step is None or not self.every_step_until or not self.inner_steps
        early = 0.0 if annealed else max(0.0, 1 - step / self.every_step_until) / self.inner_steps
        return (self.inner_steps - 1) * [early] + [1 - early * (self.inner_steps - 1)]

    def outer_process(self, batch, step=None, **_) -> tuple[Tensor, Tensor]:
        """The outer loss of an Episode, and its predictions. step: the outer step, for what is annealed (MAML++)."""
        chunks = [(batch.support_x, batch.support_y, batch.query_x, batch.query_y)]
        if (
            self.side_by_side(batch.support_x) and self.normalisation != "running"
        ):  # whose statistics are those of the whole batch
            at_once = tasks_at_once(batch.support_x, batch.query_x)
            chunks = zip(*(part.split(at_once) for part in chunks[0]), strict=True)
        total, predictions = 0.0, []
        for chunk in chunks:
            loss, prediction = self.chunk_loss(*chunk, step=step)
            total = total + loss * (len(prediction) / len(batch.query_x))
            predictions.append(prediction)
        extras = [*self.rates.values(), *self.gains.values()]
        return (with_zeros(total, extras) if extras else total), torch.cat(predictions)

    def chunk_loss(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, *, step: int | None
    ) -> tuple[Tensor, Tensor]:
        """The outer loss of some tasks, and their predictions after the last inner step."""
        weights = self.step_weights(step) if self.training else [1.0]
        first_order = self.first_order or (step is not None and step < self.first_order_until)
        every_step = len(weights) > 1 and weights[0] > 0
        settings = {"first_order": first_order, "every_step": every_step}
        predictions = self.predictions(support_x, support_y, query_x, **settings)
        weighted = zip(weights[-len(predictions) :], predictions, strict=True)
        return sum(weight * self.loss(prediction, query_y) for weight, prediction in weighted), predictions[-1]

    def predictions(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, **settings) -> list[Tensor]:
        """The queries' predictions after the last inner step, or after each. settings: of `states`."""
        return [self.predict(state, query_x) for state in self.states(support_x, support_y, **settings)]


class ANIL(MAML):
    """Almost No Inner Loop: MAML whose inner process adapts the head only. Takes MAML's options, but norm_per_step.

    The body does not move, so the features of the support set are computed once, however many steps the head takes. And
    since all tasks share the body, it may keep `running` statistics, as the encoder of a prototypical network does:
    adapt and predict then use these, and outer_loss those of its whole meta-batch, support and queries together.
    """

    shares_body = True
    _in_order = False  # whether the head is known to come last

    @property
    def mixed_precision(self) -> bool:
        """Whether it may train under autocast: where the body is no wide network, whose closed forms refuse that."""
        return self.one_by_one or not parts.runs_wide(self.network) or self.normalisation not in ("batch", "support")

    def start(self) -> inner.Parameters:
        if not isinstance(getattr(self.network, "head", None), nn.Linear):
            raise CourseError("ANIL needs a network that ends in a linear layer called head")
        if self.gains:
            raise CourseError("ANIL's body is the same after each step; leave norm_per_step out")
        if {id(value) for value in self.network.head.parameters()} & {id(value) for value in self.body.parameters()}:
            raise CourseError("ANIL's head shares a weight with the body, which must not move; untie them, or use MAML")
        return self.head_start()

    @property
    def body(self) -> nn.Module:
        """The network without its head: all of it is shared with the network."""
        return parts.replaced(self.network, self.network.head, nn.Identity())

    def features(self, x: Tensor, reference: int | None = None) -> Tensor:
        """What the head sees, by the body that all tasks share: [tasks, images, C, H, W] → [tasks, images, D]."""
        self._check_order(x, reference)
        body = self.body
        if self.normalisation not in ("batch", "support"):  # no statistics of a task: all images at once
            return body(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if parts.runs_wide(body) and not self.one_by_one:
            copies = {name: p.expand(len(x), *p.shape) for name, p in body.named_parameters()}
            return body.wide(inner.by_every_name(body, copies), x, reference)
        return torch.stack([body(images) if reference is None else body(images, reference) for images in x])

    def _check_order(self, x: Tensor, reference: int | None) -> None:
        """Raise CourseError, once, when the network does more with an answer than its head does."""
        if self._in_order or parts.runs_wide(self.network):
            return
        arguments = (x[0],) if reference is None else (x[0], reference)
        with evaluation_mode(self.network):
            if not parts.ends_in(self.network, self.network.head, *arguments):
                raise CourseError("ANIL's network must end in its head; what follows it belongs into the loss")
        self._in_order = True

    def features_of_both(self, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for support and queries: in one go, but for `batch`, where each has statistics of its own."""
        if self.normalisation == "batch":
            return self.features(support_x), self.features(query_x)
        n = support_x.shape[1]
        both = self.features(torch.cat([support_x, query_x], 1), n if self.normalisation == "support" else None)
        return both[:, :n], both[:, n:]

    def call(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        return inner.call(self.network.head, _below_head(params), x)

    def side_by_side(self, x: Tensor) -> bool:
        """Always, if not told otherwise: what is adapted is one linear layer."""
        return not self.one_by_one

    def call_wide(self, params: inner.Parameters, x: Tensor, reference: int | None = None, step: int = 0) -> Tensor:
        if not _is_plain(self.network.head):
            return self.call_mapped(params, x, reference, step)
        frozen = inner.all_parameters(self.network.head)
        shared = {name: p.expand(len(x), *p.shape) for name, p in frozen.items()}
        head = shared | _below_head(params)
        if "bias" not in head:
            return x @ head["weight"].transpose(1, 2)
        return torch.baddbmm(head["bias"].unsqueeze(1), x, head["weight"].transpose(1, 2))

    def states(self, support_x: Tensor, support_y: Tensor, **settings) -> list[State]:
        with evaluation_mode(self.network):
            features = self.features(support_x)
        states = super().states(features, support_y, **settings)
        return [state | {"support_x": support_x} for state in states]

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        with evaluation_mode(self.network):
            if self.normalisation == "support":
                features = self.features_of_both(state["support_x"], query_x)[1]
            else:
                features = self.features(query_x)
        return self.answers(state, features)

    def predictions(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, **settings) -> list[Tensor]:
        support, query = self.features_of_both(support_x, query_x)
        return [self.answers(state, query) for state in super().states(support, support_y, **settings)]

    def answers(self, state: State, features: Tensor) -> Tensor:
        """The adapted head's logits for features [tasks, images, D]."""
        return self.call_tasks(state["fast"], features)[..., : state["way"]]


def _below_head(params: inner.Parameters) -> inner.Parameters:
    return {name.removeprefix("head."): value for name, value in params.items()}


def tasks_at_once(support_x: Tensor, query_x: Tensor, pixels: int = 640 * 28 * 28) -> int:
    """How many tasks to take side by side: all of them on a GPU, on a CPU as many as have about `pixels` pixels.

    What a CPU computes should stay in its cache; what it is called for should be worth the call. Measured on 2 cores,
    one second-order step of 32 tasks: with 80 images each, 8 tasks at once 363 ms, 32 at once 437 ms, one 566 ms; with
    10 images each, 32 or 16 at once 102 ms, 4 at once 130 ms, one 270 ms.
    """
    tasks, images = len(support_x), support_x.shape[1] + query_x.shape[1]
    if support_x.device.type != "cpu":
        return tasks
    return max(1, min(tasks, pixels // (images * support_x.shape[2:].numel())))


def _one_row(network: nn.Module) -> nn.Linear:
    """A head of one class, all zeros and frozen, to take the place of the network's."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear):
        raise CourseError("zero_head needs a network that ends in a linear layer called head")
    if not _is_plain(head):
        raise CourseError("zero_head puts a plain linear layer in place of the head, which does more; leave it out")
    like = {"device": head.weight.device, "dtype": head.weight.dtype}
    row = nn.Linear(head.in_features, 1, bias=head.bias is not None, **like).requires_grad_(False)
    for value in row.parameters():
        value.zero_()
    return row


def _is_plain(head: nn.Linear) -> bool:
    """Whether a linear layer does just that: no forward of its own, no hooks, no weight computed from others."""
    hooked = head._forward_hooks or head._forward_pre_hooks
    return type(head).forward is nn.Linear.forward and not hooked and not is_parametrized(head)


def _rows(params: inner.Parameters, way: int | None) -> inner.Parameters:
    """The one row of the head, for each of `way` classes."""
    if way is None:
        raise CourseError("zero_head is for classes; leave it out in regression")
    head = {name: value for name, value in params.items() if name.startswith("head.")}
    return {name: value.expand(way, *value.shape[1:]) for name, value in head.items()}


def _check_given(least: int, **counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None:
            check_whole(name, value, least=least)


def _rates(kind: str | None, params: inner.Parameters, start: float, steps: int) -> nn.ParameterDict:
    """The learned rates of Meta-SGD ("entry") or MAML++ ("layer"). A ParameterDict's names may hold no dot."""
    if kind not in (None, "entry", "layer"):
        raise CourseError(f"learned_rates {kind!r} is unknown; use entry, layer or None")
    made = nn.ParameterDict()
    for name, value in params.items() if kind else ():
        like = value.detach() if kind == "entry" else value.detach().new_empty(steps)
        made[parts.key_of(name)] = nn.Parameter(torch.full_like(like, start))
    return made


def norms_of(learner: nn.Module, other: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What of the normalisation of `other` a learner takes over beside the network, where one has it for each step.

    Pairs of the learner's own parameter and what to copy into it, once the network of `other` was loaded.
    Raises CourseError where that of `other` differs from step to step, and the learner has no such sets.
    """
    mine, theirs = (_sets(one) for one in (learner, other))
    own, one_for_all = (dict(one.network.named_parameters()) for one in (learner, other))
    pairs = []
    for key in mine.keys() | theirs.keys():
        sets = theirs[key] if key in theirs else one_for_all[parts.name_of(key)].expand(len(mine[key]), -1)
        if key in mine and len(sets) == len(mine[key]):
            pairs.append((mine[key], sets))
        elif (sets == sets[0]).all():
            pairs.append((mine[key] if key in mine else own[parts.name_of(key)], sets[0]))
        else:
            there = f"{len(mine[key]) - 1} inner steps" if key in mine else "one for all"
            raise CourseError(
                f"the run has a normalisation for each of {len(sets) - 1} inner steps, and the learner has {there}; "
                "start one with as many inner steps and norm_per_step, as in maml++"
            )
    return pairs


def _sets(learner: nn.Module) -> Mapping[str, Tensor]:
    """The gains and biases of each step, where a learner has some."""
    gains = getattr(learner, "gains", None)
    return gains if isinstance(learner, MAML) and isinstance(gains, nn.ParameterDict) else {}


def _gains(network: nn.Module, sets: int) -> nn.ParameterDict:
    """`sets` copies of each normalisation's gain and bias, [sets, channels]; the network's own are frozen."""
    made = nn.ParameterDict()
    for prefix, module in network.named_modules():
        if isinstance(module, NORMALISES):
            for name, value in module.named_parameters(recurse=False):
                value.requires_grad_(False)
                copies = value.detach().expand(sets, *value.shape).clone()
                made[parts.key_of(f"{prefix}.{name}" if prefix else name)] = nn.Parameter(copies)
    if not made:
        raise CourseError("norm_per_step needs a network with normalisation; use batch, support or group")
    return made


# ------------------------------------------------------------------ as methods

# The defaults of Conv-4 for networks that are adapted.
ADAPTED = {"normalisation": "batch", "downsample": "stride"}
SMOKE = Recipe(
    steps=3,
    tasks=2,
    rate=1e-3,
    query=2,
    validate_every=3,
    validation_episodes=10,
    options={"inner_steps": 1},
)
SHORT = Recipe(
    steps=10000,
    tasks=8,
    rate=3e-3,
    query=3,
    validate_every=1000,
    options={"inner_steps": 1, "evaluation_inner_steps": 3, "normalisation": "support"},
    many_way={"tasks": 2},  # as many images per step as 8 tasks of 5 classes
)
# Finn et al. 2017, appendix A.1: 60,000 iterations. 5-way: meta-batch 32, one inner step of 0.4, three at test time.
# 20-way: meta-batch 16, five inner steps of 0.1, as many at test time.
PAPER = Recipe(
    steps=60000,
    tasks=32,
    rate=1e-3,
    schedule="constant",
    query=1,
    validate_every=1000,
    options={"inner_steps": 1, "evaluation_inner_steps": 3, "inner_rate": 0.4},
    many_way={"tasks": 16, "options": {"inner_steps": 5, "evaluation_inner_steps": 5, "inner_rate": 0.1}},
)


def recipes_of_relatives(
    short_steps: int = 10000, *, short_rate: float = SHORT.rate, **options: Any
) -> dict[str, Recipe]:
    """MAML's smoke and short recipes, with other options where a method needs them.

    short_steps: how many outer steps fit into ten minutes on 2 cores. Measured, processor time of one step of 8 tasks:
    MAML 70 ms, first-order 47, ANIL 48, Meta-SGD 70, MAML++ 141, Reptile 168, implicit MAML 288.
    """
    return {
        "smoke": replace(SMOKE, options=SMOKE.options | options),
        "short": replace(SHORT, steps=short_steps, rate=short_rate, options=SHORT.options | options),
    }


FINN = Paper(
    "Finn, Abbeel, Levine",
    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    2017,
    "https://arxiv.org/abs/1703.03400",
)
register(
    "maml",
    learner=MAML,
    help="a start from which a few steps of descent suffice",
    title="MAML (second order)",
    paper=FINN,
    published={
        "omniglot 5-way 1-shot": 98.7,
        "omniglot 5-way 5-shot": 99.9,
        "omniglot 20-way 1-shot": 95.8,
        "omniglot 20-way 5-shot": 98.9,
    },
    setting="a random split of 1,200 and 423 characters; statistics of the queries, transductive",
    network=ADAPTED,
    head=True,
    recipes={"smoke": SMOKE, "short": SHORT, "paper": PAPER},
)
register(
    "fomaml",
    learner=MAML,
    help="MAML without the second-order term",
    title="MAML, first order",
    paper=FINN,
    published={  # not in that paper: run by Nichol et al. 2018, who compare with it
        "omniglot 5-way 1-shot": 98.3,
        "omniglot 5-way 5-shot": 99.2,
        "omniglot 20-way 1-shot": 89.4,
        "omniglot 20-way 5-shot": 97.9,
    },
    setting="as run by Nichol et al. 2018, https://arxiv.org/abs/1803.02999; a random split; transductive",
    network=ADAPTED,
    head=True,
    options={"first_order": True},
    recipes={"smoke": SMOKE, "short": SHORT, "paper": PAPER},
)
ZERO_HEAD = {"zero_head": True, "normalisation": "running", "inner_rate": 0.005}
register(
    "anil",
    learner=ANIL,
    help="MAML that adapts the head only",
    title="ANIL, head from zero",
    paper=Paper(
        "Raghu, Raghu, Bengio, Vinyals",
        "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
        2020,
        "https://arxiv.org/abs/1909.09157",
    ),
    published={"omniglot 20-way 1-shot": 96.2, "omniglot 20-way 5-shot": 98.0},
    setting="a split as of Finn et al. 2017; normalisation not looked up",
    network=ADAPTED,
    head=True,
    # The body is one for all tasks, so it learns from more classes at a time, as a prototypical network's encoder does.
    # Tried on Omniglot, 700 steps, one seed, validation accuracy at 5-way 1-shot. 20-way tasks with a rate of 0.005:
    # 94.1 % with 3 inner steps, 95.3 % with 5; with 0.0125: 91.8 %; with 0.001 and 3 steps: 88.5 %. 60-way tasks with
    # 0.005 and 3 steps: 93.8 %.
    recipes={
        "smoke": replace(SMOKE, options={"inner_steps": 1, **ZERO_HEAD}),
        "short": Recipe(
            steps=7000,
            tasks=3,
            rate=2e-3,
            train_way=20,
            query=5,
            validate_every=1000,
            options={"inner_steps": 5, "evaluation_inner_steps": 10, **ZERO_HEAD},
        ),
    },
)
register(
    "meta-sgd",
    learner=MAML,
    help="MAML with a learned rate for each weight",
    title="Meta-SGD",
    paper=Paper(
        "Li, Zhou, Chen, Li",
        "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
        2017,
        "https://arxiv.org/abs/1707.09835",
    ),
    published={
        "omniglot 5-way 1-shot": 99.53,
        "omniglot 5-way 5-shot": 99.93,
        "omniglot 20-way 1-shot": 95.93,
        "omniglot 20-way 5-shot": 98.97,
    },
    setting="a random split, 1,200 characters to train; normalisation not looked up",
    network=ADAPTED,
    head=True,
    options={"learned_rates": "entry"},
    recipes=recipes_of_relatives(),
)
register(
    "maml++",
    learner=MAML,
    help="MAML with rates and normalisation of each step",
    title="MAML++",
    paper=Paper(
        "Antoniou, Edwards, Storkey",
        "How to train your MAML",
        2019,
        "https://arxiv.org/abs/1810.09502",
    ),
    published={
        "omniglot 5-way 1-shot": 99.47,
        "omniglot 20-way 1-shot": 97.65,
        "omniglot 20-way 5-shot": 99.33,
    },
    setting="a random split of 1,150, 50 and 423 characters; statistics of the queries, transductive",
    network=ADAPTED,
    head=True,
    # annealed over the first part of a training of a few thousand outer steps
    options={"learned_rates": "layer", "norm_per_step": True, "every_step_until": 1000, "first_order_until": 500},
    recipes=recipes_of_relatives(5000, inner_steps=3, evaluation_inner_steps=3),
)
