"""Optimizers as pure functions, some of them with weights of their own: the update rule itself is the outer parameter.

    state = rule.init(params),    params, state = rule.update(params, grads, state, t),    t = 1, 2, …, T

params, grads: tensors by name. Nothing is changed in place, so a rule runs under `vmap`, and one can differentiate
through it. All rules here treat all coordinates alike: a rule that was trained on a network of a hundred weights also
runs on one of a million.

| rule       | its weights           | per coordinate it sees                                  | it remembers        |
|------------|-----------------------|---------------------------------------------------------|---------------------|
| SGD        | the rate α            | the gradient                                            | momentum            |
| Adam       | the rate α            | the gradient                                            | two moments         |
| MLPRule    | a small network       | gradient, value, momenta, scaled momenta, time          | momenta, one moment |
| LSTMRule   | two LSTM layers       | the gradient's logarithm and sign                       | two cells           |

`inner_training` makes "a rule trains a task" an `evolution.Unroll`, so that backpropagation, ES and PES can train the
rule; `LearnedOptimizer` makes a rule a `torch.optim.Optimizer` for any model.

Andrychowicz, Denil, Gómez, Hoffman, Pfau, Schaul, Shillingford, de Freitas, *Learning to Learn by Gradient Descent by
Gradient Descent*, 2016, https://arxiv.org/abs/1606.04474 (LSTMRule); Metz, Maheswaranathan, Nixon, Freeman,
Sohl-Dickstein, *Understanding and Correcting Pathologies in the Training of Learned Optimizers*, 2019,
https://arxiv.org/abs/1810.10180, and Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, *Practical Tradeoffs
between Memory, Compute, and Performance in Learned Optimizers*, 2022, https://arxiv.org/abs/2203.11860 (MLPRule);
Kingma, Ba, *Adam*, 2015, https://arxiv.org/abs/1412.6980.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlcourse import files
from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.inner import log_and_sign
from mlcourse.meta_optimization.evolution import Tree, Unroll
from mlcourse.meta_optimization.small_tasks import Family, Parameters, Sample

Memory = dict[str, Tensor]


class Rule(nn.Module, ABC):
    """An optimizer: its weights are the outer parameters λ. Subclasses give `init` and `update`."""

    config: dict[str, Any]

    @abstractmethod
    def init(self, params: Parameters) -> Memory:
        """What the rule remembers, before the first step."""

    @abstractmethod
    def update(self, params: Parameters, grads: Parameters, state: Memory, t: int) -> tuple[Parameters, Memory]:
        """One step. t: its number, from 1. Returns new parameters and a new state."""

    def forward(self, *args: Any) -> tuple[Parameters, Memory]:
        """`update`, under the name by which `torch.func.functional_call` finds it."""
        return self.update(*args)

    def weights(self) -> Parameters:
        """λ: the rule's own weights by name, detached."""
        return {name: value.detach() for name, value in self.named_parameters()}


# ------------------------------------------------------------------ written by hand


class SGD(Rule):
    """b ← μb + g, φ ← φ − αb.

    rate: α. momentum: μ. schedule(t): a factor on the rate at step t.
    """

    def __init__(
        self,
        rate: float = 0.1,
        momentum: float = 0.0,
        schedule: Callable[[int], float] | None = None,
    ):
        super().__init__()
        self.config = {"rule": "sgd", "options": {"rate": rate, "momentum": momentum}}
        check_number("momentum", momentum, least=0)
        self.rate, self.momentum, self.schedule = _rate(rate), momentum, schedule

    def init(self, params: Parameters) -> Memory:
        return {"momentum": torch.zeros_like(joined(params))}

    def update(
        self,
        params: Parameters,
        grads: Parameters,
        state: Memory,
        t: int,
    ) -> tuple[Parameters, Memory]:
        m = self.momentum * state["momentum"] + joined(grads)
        return moved(params, -self.rate * _factor(self.schedule, t) * m), {"momentum": m}


class Adam(Rule):
    """φ ← φ − α m̂ / (√v̂ + ε), m̂ and v̂ the bias-corrected moving means of g and g²; as torch.optim.Adam.

    rate: α. betas: how much of each mean stays. eps: ε. schedule(t): a factor on the rate at step t.
    """

    def __init__(
        self,
        rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        schedule: Callable[[int], float] | None = None,
    ):
        super().__init__()
        self.config = {"rule": "adam", "options": {"rate": rate, "betas": list(betas), "eps": eps}}
        for beta in betas:
            _check_share("beta", beta)
        check_number("eps", eps, least=0)
        self.rate, self.betas, self.eps, self.schedule = _rate(rate), tuple(betas), eps, schedule

    def init(self, params: Parameters) -> Memory:
        return {"mean": torch.zeros_like(joined(params)), "square": torch.zeros_like(joined(params))}

    def update(self, params: Parameters, grads: Parameters, state: Memory, t: int) -> tuple[Parameters, Memory]:
        g, (b1, b2) = joined(grads), self.betas
        m = b1 * state["mean"] + (1 - b1) * g
        v = b2 * state["square"] + (1 - b2) * g.square()
        direction = (m / (1 - b1**t)) / (_root(v / (1 - b2**t)) + self.eps)
        return moved(params, -self.rate * _factor(self.schedule, t) * direction), {"mean": m, "square": v}


def _root(v: Tensor) -> Tensor:
    """√v with a derivative of 0 at v = 0, where PyTorch's is infinite, and infinite · 0 is nan.

    Where a mean of g² is 0, g was 0 in every step, and so is what is divided by the root: the root's slope counts 0.
    """
    return torch.where(v == 0, v, torch.where(v == 0, 1.0, v).sqrt())


def _check_share(name: str, value: float) -> None:
    """How much of a moving mean stays: 1 would let nothing in."""
    check_number(name, value, least=0)
    if value >= 1:
        raise CourseError(f"{name} is {value}; give a number below 1")


def _rate(rate: float) -> nn.Parameter:
    check_number("rate", rate, above=0)
    return nn.Parameter(torch.tensor(rate, dtype=torch.float64))


def _factor(schedule: Callable[[int], float] | None, t: int) -> float:
    return 1.0 if schedule is None else schedule(t)


# ------------------------------------------------------------------ learned

FEATURES = ("gradient", "value", "momentum", "scaled", "size", "time")


class MLPRule(Rule):
    """A small network, the same for all coordinates, looks at one after the other and says how far to move it:

        φ ← φ − scale · d · exp(gain · m),    (d, m) = MLP(features of the coordinate)

    d is a direction with a length, m changes the order of magnitude. features: any of FEATURES.

    - gradient: g; value: φ; momentum: moving means of g, m ← βm + (1 − β)g, one for each β in `momenta`.
    - scaled: g and the momenta over √v, the root of a moving mean of g² (β = `squares`), all bias-corrected: with one
      momentum this is Adam's direction.
    - size: 1/√v; time: tanh(t/τ − 1) for each τ in `times`, so that the rule may start boldly and end carefully.

    normalise: divide gradient, value, momentum and size by their root mean square over the coordinates of a tensor (the
    one thing that a coordinate learns of the others), so
    that a loss that is multiplied by a constant trains the same, as long as these are well above 1e-4 (1e-8 is added to
    their squares). hidden: units of each of `layers` hidden layers.
    """

    def __init__(
        self,
        *,
        features: Iterable[str] = FEATURES,
        momenta: Iterable[float] = (0.5, 0.9, 0.99),
        squares: float = 0.99,
        times: Iterable[float] = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
        normalise: bool = True,
        hidden: int = 16,
        layers: int = 2,
        activation: str = "relu",
        scale: float = 0.1,
        gain: float = 0.1,
    ):
        super().__init__()
        self.features, self.momenta, self.times = tuple(features), tuple(momenta), tuple(times)
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            raise CourseError(f"feature {unknown[0] if unknown else None!r}: give some of {', '.join(FEATURES)}")
        if activation not in ("relu", "tanh"):
            raise CourseError(f"activation {activation!r} is unknown; use relu or tanh")
        check_positive("hidden", hidden)
        check_number("layers", layers, least=0)
        for name, value in (*(("momentum", beta) for beta in self.momenta), ("squares", squares)):
            _check_share(name, value)
        for value in self.times:
            check_number("time", value, above=0)
        for name, value in (("scale", scale), ("gain", gain)):
            check_number(name, value)
        self.squares, self.normalise, self.scale, self.gain = squares, normalise, scale, gain
        widths = [self.inputs(), *layers * [hidden]]
        kind = nn.ReLU if activation == "relu" else nn.Tanh
        body = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), kind())]
        self.mlp = nn.Sequential(*body, nn.Linear(widths[-1], 2))
        self.config = {
            "rule": "mlp",
            "options": {
                "features": list(self.features), "momenta": list(self.momenta), "squares": squares,
                "times": list(self.times), "normalise": normalise, "hidden": hidden, "layers": layers,
                "activation": activation, "scale": scale, "gain": gain,
            },
        }  # fmt: skip

    def inputs(self) -> int:
        """How many numbers the network sees for one coordinate."""
        many = {"momentum": len(self.momenta), "scaled": 1 + len(self.momenta), "time": len(self.times)}
        return sum(many.get(name, 1) for name in self.features)

    def init(self, params: Parameters) -> Memory:
        flat = joined(params)
        return {"momenta": flat.new_zeros(len(flat), len(self.momenta)), "square": torch.zeros_like(flat)}

    def update(
        self,
        params: Parameters,
        grads: Parameters,
        state: Memory,
        t: int,
    ) -> tuple[Parameters, Memory]:
        g = joined(grads)
        decay = g.new_tensor(self.momenta)
        state = {
            "momenta": decay * state["momenta"] + (1 - decay) * g.unsqueeze(-1),
            "square": self.squares * state["square"] + (1 - self.squares) * g.square(),
        }
        direction, magnitude = self.mlp(self.see(params, g, state, t)).unbind(-1)
        return moved(params, -self.scale * direction * (self.gain * magnitude).exp()), state

    def see(self, params: Parameters, g: Tensor, state: Memory, t: int) -> Tensor:
        """All features of all coordinates, [coordinates, inputs]. g: the gradients, joined; state: g is in it."""
        momenta, square = state["momenta"], state["square"] / (1 - self.squares**t)
        columns = {
            "gradient": lambda: g.unsqueeze(-1),
            "value": lambda: joined(params).unsqueeze(-1),
            "momentum": lambda: momenta,
            "size": lambda: (square + 1e-12).rsqrt().unsqueeze(-1),
        }
        seen = []
        for name in self.features:
            if name == "time":
                seen.append(torch.tanh(t / g.new_tensor(self.times) - 1).expand(len(g), -1))
            elif name == "scaled":
                corrected = momenta / (1 - g.new_tensor(self.momenta) ** t)
                seen.append(torch.cat([g.unsqueeze(-1), corrected], -1) / (square + 1e-16).sqrt().unsqueeze(-1))
            else:
                column = columns[name]()
                seen.append(_normalised(column, params) if self.normalise else column)
        return torch.cat(seen, -1)


class LSTMRule(Rule):
    """An LSTM for each coordinate, all with the same weights: φ ← φ + scale · (what the LSTM says of g).

    The gradient goes in as (log|g| / p, sign g), or as (−1, e^p g) where |g| < e^−p: gradients of all orders of
    magnitude become numbers near 1 (Andrychowicz et al. 2016, appendix A). What the cells keep is up to the rule.
    """

    def __init__(self, *, hidden: int = 20, layers: int = 2, scale: float = 0.1, p: float = 10.0):
        super().__init__()
        check_positive("hidden", hidden)
        check_positive("layers", layers)
        check_number("scale", scale)
        check_number("p", p, above=0)
        self.hidden, self.scale, self.p = hidden, scale, p
        self.cells = nn.ModuleList([nn.Linear((2 if i == 0 else hidden) + hidden, 4 * hidden) for i in range(layers)])
        self.out = nn.Linear(hidden, 1)
        self.config = {"rule": "lstm", "options": {"hidden": hidden, "layers": layers, "scale": scale, "p": p}}

    def init(self, params: Parameters) -> Memory:
        flat = joined(params)
        zeros = flat.new_zeros(len(flat), len(self.cells), self.hidden)
        return {"h": zeros, "c": zeros}

    def update(self, params: Parameters, grads: Parameters, state: Memory, t: int) -> tuple[Parameters, Memory]:
        x, hs, cs = log_and_sign(joined(grads), self.p), [], []
        for cell, h, c in zip(self.cells, state["h"].unbind(-2), state["c"].unbind(-2), strict=True):
            keep, take, show, new = cell(torch.cat([x, h], -1)).chunk(4, -1)
            c = keep.sigmoid() * c + take.sigmoid() * new.tanh()
            x = show.sigmoid() * c.tanh()
            hs, cs = [*hs, x], [*cs, c]
        return moved(params, self.scale * self.out(x).squeeze(-1)), {"h": torch.stack(hs, -2), "c": torch.stack(cs, -2)}


def joined(params: Parameters) -> Tensor:
    """All coordinates as one vector [n]."""
    return torch.cat([value.flatten() for value in params.values()])


def moved(params: Parameters, by: Tensor) -> Parameters:
    """New parameters: each coordinate plus its part of the vector `by` [n]."""
    parts = by.split([value.numel() for value in params.values()])
    return {
        name: value + part.view_as(value).to(value.dtype)
        for (name, value), part in zip(params.items(), parts, strict=True)
    }


def _normalised(columns: Tensor, params: Parameters) -> Tensor:
    """Each column [n, …] over its root mean square in every tensor. A gradient of exactly 0 stays 0."""
    parts = columns.split([value.numel() for value in params.values()])
    return torch.cat([part * (part.square().mean(0, keepdim=True) + 1e-8).rsqrt() for part in parts])


# ------------------------------------------------------------------ the inner unroll, and how to train a rule on it


def inner_training(
    rule: Rule,
    family: Family,
    *,
    horizon: int,
    first_order: bool = False,
    ceiling: float | None = None,
    weight: Callable[[int], float] | None = None,
) -> Unroll:
    """Training of a task by the rule, as a system of T steps whose λ are the rule's weights.

    ℓ_t is the validation loss after step t, times weight(t); without `weight` times 1/T, a mean over the training.
    first_order: take the tasks' gradients as constants when differentiating (as Andrychowicz et al. 2016 do; ES and PES
    do not differentiate). ceiling: losses end there, also those that are not finite: for ES and PES, whose perturbed
    rules may diverge.

        problem = inner_training(rule, family, horizon=40)
        training.train(Estimator(problem, rule, estimator="pes", truncation=10, particles=32), family, tasks=16, …)
    """
    if ceiling is not None:
        check_number("ceiling", ceiling)

    def init(lam: Parameters, draw: Sample) -> Tree:
        task = {name: value for name, value in draw.items() if name != "start"}
        return {"params": draw["start"], "rule": rule.init(draw["start"]), "task": task}

    def step(state: Tree, lam: Parameters, t: int) -> Tree:
        grads = torch.func.grad(family.loss)(state["params"], state["task"], t)
        if first_order:
            grads = {name: g.detach() for name, g in grads.items()}
        arguments = (state["params"], grads, state["rule"], t)
        params, memory = functional_call(rule, lam, arguments)
        return {"params": params, "rule": memory, "task": state["task"]}

    def loss(state: Tree, lam: Parameters, t: int) -> Tensor:
        value = family.validation(state["params"], state["task"])
        if ceiling is not None:
            # a nan is not below it either
            value = torch.where(value < ceiling, value, ceiling)
        return value * (1 / horizon if weight is None else weight(t))

    return Unroll(init, step, loss, horizon, family.sample)


@torch.no_grad()
def curves(rule: Rule, family: Family, tasks: Sample, *, horizon: int, lam: Parameters | None = None) -> Tensor:
    """Validation losses [tasks, T + 1] before the first step and after each, all tasks side by side.

    tasks: from family.sample. lam: weights in the place of the rule's own. Losses may be inf or nan: rules diverge.
    """
    problem = inner_training(rule, family, horizon=horizon)
    lam = rule.weights() if lam is None else lam

    def one(task: Sample) -> Tensor:
        state = problem.init(lam, task)
        losses = [family.validation(state["params"], state["task"])]
        for t in range(1, horizon + 1):
            state = problem.step(state, lam, t)
            losses.append(family.validation(state["params"], state["task"]))
        return torch.stack(losses)

    return torch.func.vmap(one)(tasks)


def tune_rate(
    rule: SGD | Adam, family: Family, tasks: Sample, *, horizon: int, rates: Iterable[float]
) -> tuple[float, Tensor]:
    """(the best rate, the mean validation loss at the horizon for each rate); a loss that is not finite counts as inf.

    rates: three or more. Raises CourseError for a rate that is not finite and above 0, and when the best is the first
    or the last of the rates: a better one may lie outside.
    """
    rates = list(rates)
    for rate in rates:
        check_number("a rate", rate, above=0)
    if not rates:
        raise CourseError("rates is empty; give three or more, with the best one inside")
    rates = torch.tensor(sorted(rates), dtype=torch.float64)
    ends = [curves(rule, family, tasks, horizon=horizon, lam={"rate": rate})[:, -1].mean() for rate in rates]
    losses = torch.stack(ends).nan_to_num(nan=math.inf, posinf=math.inf)
    best = int(losses.argmin())
    if best in (0, len(rates) - 1):
        raise CourseError(f"the best rate, {rates[best].item():g}, is at the edge of those tried; try more beyond it")
    return rates[best].item(), losses


# ------------------------------------------------------------------ for any model, and on disk


class LearnedOptimizer(torch.optim.Optimizer):
    """A rule as a `torch.optim.Optimizer`: `LearnedOptimizer(model.parameters(), rule)`, then `step()` as ever.

    lr: a factor on the rule's update, for schedulers; 1 is the rule as it was trained. `state_dict` holds what the rule
    remembers of each parameter, not the rule's own weights (`save` keeps those). A parameter without a gradient stays.
    """

    def __init__(self, params: Iterable[Any], rule: Rule, lr: float = 1.0):
        check_number("lr", lr, least=0)
        self.rule = rule
        super().__init__(params, {"lr": lr})
        kinds = {value.dtype for group in self.param_groups for value in group["params"]}
        wrong = [kind for kind in kinds if any(weight.dtype != kind for weight in rule.parameters() if weight.dim())]
        if wrong:
            raise CourseError(
                f"the parameters are {wrong[0]}, and the rule's weights are not: call rule.to({wrong[0]})"
            )

    def told(self) -> dict[str, Any]:
        """What rule it is, for a file of a training that goes on: its kind, its options, a digest of its weights."""
        digest = hashlib.sha256()
        for value in self.rule.state_dict().values():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        told = {"rule": getattr(self.rule, "config", type(self.rule).__qualname__), "weights": digest.hexdigest()}
        schedule = getattr(self.rule, "schedule", None)
        return told if schedule is None else told | {"schedule": [schedule(t) for t in (1, 2, 10, 100)]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of all parameters; closure: computes the loss and its gradients once more, and is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for value in (p for p in group["params"] if p.grad is not None):
                self._step(value, group["lr"])
        return loss

    def _step(self, value: Tensor, lr: float) -> None:
        state = self.state[value]
        if not state:
            state.update(self.rule.init({"p": value}), step=torch.tensor(0.0))
        state["step"] += 1
        memory = {name: part for name, part in state.items() if name != "step"}
        new, memory = self.rule.update({"p": value}, {"p": value.grad}, memory, int(state["step"]))
        value.copy_(new["p"] if lr == 1 else torch.lerp(value, new["p"], lr))
        state.update(memory)


RULES: dict[str, type[Rule]] = {"sgd": SGD, "adam": Adam, "mlp": MLPRule, "lstm": LSTMRule}


def save(rule: Rule, path: Path | str, **about: Any) -> None:
    """Write a rule as one safetensors file; about: what else to remember, say the command that trained it.

    Raises CourseError for a rule with a schedule, a function, which no such file can hold.
    """
    if getattr(rule, "schedule", None) is not None:
        raise CourseError(
            f"a rule of kind {rule.config['rule']!r} with a schedule cannot be kept: keep one without it, and give the "
            "schedule again after loading"
        )
    files.save_tensors(path, rule.state_dict(), rule.config | {"about": about})


def load(path: Path | str) -> tuple[Rule, dict[str, Any]]:
    """(the rule, what `save` was told about it). Raises CourseError for a file that holds no rule."""
    tensors, found = files.load_tensors(path)
    try:
        rule = RULES[found["rule"]](**found["options"])
        rule.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, StopIteration) as error:
        raise CourseError(f"{path} holds no rule that this version knows ({error}); train it again") from None
    return rule, found["about"]
