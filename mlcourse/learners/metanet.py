"""Meta-Networks: gradients of the support set go in, the weights of the network come out, in one forward pass.

Munkhdalai, Yu, *Meta Networks*, 2017, https://arxiv.org/abs/1703.00837. Its symbols, which the code keeps:

| symbol      | what it is                                                                                            |
|-------------|-------------------------------------------------------------------------------------------------------|
| u, Q, Q*    | the network that embeds; its slow weights; its fast weights, one set a task                           |
| b, W, W*    | the base learner, which answers; its slow weights; its fast weights, one set a query                  |
| d, G        | the meta-learner (an LSTM) that writes Q* from T gradients of the representation loss                 |
| m, Z        | the meta-learner (an MLP) that writes W*_i from the gradient ∇_i of support image i                   |
| M, R        | the memory: values W*_i and keys r'_i = u(Q, Q*, x'_i), one of each for every support image           |

    Q* = d(G, ∇_Q L_emb of T examples)      W*_i = m(Z, ∇_W L_task(b(W, x'_i), y'_i))
    a = softmax(cos(R, u(Q, Q*, x)))        W* = Σ_i a_i W*_i          answer b(W, W*, x)

*Slow weights* are outer parameters: meta-training changes them, a task does not. *Fast weights* are written for a task.
*Layer augmentation*: a layer's input goes through the slow and the fast weights separately, each result through the
non-linearity, and the two are added. The last layer adds first; one softmax follows.

Where the paper leaves a choice, or this code takes another:

- u and b are two Conv-4 encoders of equal shape, each with one fully connected layer; b has a softmax layer on top.
  The paper augments the last three layers of a CNN with five convolutions. Here the fully connected layers of u and of
  b and the softmax layer of b are augmented, and no convolution: that keeps a step short on a CPU.
- Gradients that are inputs count as constants, unless second_order=True. A constant passes no meta-gradient to the
  softmax layer that u needs for its representation loss, so that layer is then fixed, at random weights.
- A bias is the weight of an input that is always 1; so it has a gradient and a fast weight, too.
- The T examples (or pairs) stand at the same places of the support set in all tasks of a batch: drawn anew at each
  training step, always the same ones otherwise. So the order of the support set changes an answer a little, all the
  more since d reads one gradient after another.
- What m and d write is multiplied by 1/(D + 1) in a fully connected layer of D inputs, and by √(hidden + 1) in the
  softmax layer. All coordinates of all layers share one function, and its constant part counts D + 1 times at each
  output: unscaled, it drowns the slow weights. In the softmax layer the fast weights alone know this task's labels.
- m and d start with PyTorch's random weights and with biases of 0, but the last: they write more than 0 for g = −0.02
  and 0 for g = 0.02, the direction of descent (the paper: all weights uniform in [−0.1, 0.1)). Where a fast layer with
  a ReLU got negative weights only, it would be silent, and d, which acts through such a layer alone, would never learn.
- Normalisation of the convolutions: the paper names none; the network's is taken (`running`, `group` or `none`).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.errors import CourseError, check_whole
from mlcourse.learners.base import Learner, State, evaluation_mode, way_of
from mlcourse.learners.methods import Paper, Recipe, register
from mlcourse.learners.metric import check_encoder, cosines
from mlcourse.learners.prototypical import ENCODER, PrototypicalNetwork
from mlcourse.networks import normalisation_of, parts

P = 7.0  # of `preprocess`: gradients below e^−7 are small


def preprocess(gradient: Tensor, p: float = P) -> Tensor:
    """Two numbers for each coordinate of a gradient, [...] → [..., 2]: see `inner.log_and_sign`."""
    return inner.log_and_sign(gradient, p)


def with_one(x: Tensor) -> Tensor:
    """A 1 after the last entry, [..., D] → [..., D + 1], for the bias."""
    return F.pad(x, (0, 1), value=1.0)


def augmented(slow: nn.Linear, fast: Tensor, x: Tensor, activation=F.relu) -> Tensor:
    """Layer augmentation: σ(slow(x)) + σ(fast·x). x: [tasks, images, D]; fast: [tasks, H, D + 1], the bias last."""
    return activation(slow(x)) + activation(with_one(x) @ fast.transpose(1, 2))


class ExampleWriter(nn.Module):
    """m with its weights Z: an MLP of three layers that turns each single coordinate of a gradient into a fast weight.

    All coordinates share Z. [..., any shape] → the same shape.
    """

    def __init__(self, hidden: int):
        super().__init__()
        layers = [nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, gradient: Tensor) -> Tensor:
        return self.layers(preprocess(gradient)).squeeze(-1)


class TaskWriter(nn.Module):
    """d with its weights G: an LSTM that reads T gradients one after another, each coordinate by itself.

    All coordinates share G; a linear layer reads the last hidden state. [tasks, T, any shape] → [tasks, same shape].
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.lstm = nn.LSTM(2, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, gradients: Tensor) -> Tensor:
        sequence = preprocess(gradients.transpose(0, 1).flatten(1))  # [T, tasks·coordinates, 2]
        _, (last, _) = self.lstm(sequence)
        return self.out(last[0]).view(len(gradients), *gradients.shape[2:])


class SlowNetwork(nn.Module):
    """A convolutional encoder (`trunk`) and a fully connected layer: u without its fast weights."""

    def __init__(self, trunk: nn.Module, size: int, hidden: int):
        super().__init__()
        self.trunk, self.fc = trunk, nn.Linear(size, hidden)
        self.activation = F.relu

    def features(self, x: Tensor) -> Tensor:
        """What enters the fully connected layer: [tasks, images, C, H, W] → [tasks, images, D]."""
        return parts.embeddings(self.trunk, x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def forward(self, x: Tensor) -> Tensor:
        """u(Q, x): [images, C, H, W] → [images, hidden]."""
        return self.activation(self.fc(parts.embeddings(self.trunk, x)))


class MetaNetwork(Learner):
    """θ = {Q, W, G, Z}; adapt writes Q*, M and R in one forward pass; predict reads W* for each query by itself.

    `state`, for n support images, each with a leading dimension of tasks: "fast_u" Q* [tasks, hidden, D + 1]; "keys" R
    [tasks, n, hidden]; "memory_fc" [tasks, n, hidden, D + 1] and "memory_head" [tasks, n, way, hidden + 1], the W*_i of
    M. Tasks with fewer classes than the head has use the first logits only.

    network: one with a linear `head` of `way` logits (its size is used, the head itself is not). hidden: outputs of
    the fully connected layers. meta_hidden: units of d and m. examples: T. sharpness: a factor on the cosines before
    the softmax (the paper: 1). representation_loss: "cross-entropy" of single examples, "contrastive" of pairs, or
    "paper": the first where each class has one example, the second elsewhere. second_order: differentiate through the
    gradients, too.

    Its normalisation is `running`, `group` or `none`: no query sees another (inductive). adapt and predict use running
    statistics as they are; outer_loss, in training mode, uses those of its batch and updates the running ones.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        hidden: int = 64,
        meta_hidden: int = 20,
        examples: int = 5,
        sharpness: float = 1.0,
        representation_loss: str = "paper",
        second_order: bool = False,
    ):
        super().__init__()
        check_encoder(network, "Meta-Networks")
        self.normalisation = normalisation_of(network)
        for name, value in {"hidden": hidden, "meta_hidden": meta_hidden, "examples": examples}.items():
            check_whole(name, value, least=1)
        if representation_loss not in ("paper", "cross-entropy", "contrastive"):
            raise CourseError(
                f"representation_loss {representation_loss!r} is unknown; use paper, cross-entropy or contrastive"
            )
        head = getattr(network, "head", None)
        parts.check_has(isinstance(head, nn.Linear), network, "MetaNetwork", "a linear layer called head")
        way, size = head.weight.shape
        parts.exchange(network, head, nn.Identity())
        other = copy.deepcopy(network)
        for part in other.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        self.b, self.u = SlowNetwork(network, size, hidden), SlowNetwork(other, size, hidden)
        self.head = nn.Linear(hidden, way)
        self.m, self.d = ExampleWriter(meta_hidden), TaskWriter(meta_hidden)
        _start_downhill(self.m, self.m.layers[-1])
        _start_downhill(self.d, self.d.out)
        softmax_of_u = torch.randn(way, hidden) / hidden**0.5
        if second_order:
            self.head_u = nn.Parameter(softmax_of_u)
        else:
            self.register_buffer("head_u", softmax_of_u)
        self.examples, self.sharpness, self.second_order = examples, sharpness, second_order
        self.representation_loss = representation_loss
        self.mixed_precision = not second_order  # a gradient through rounded gradients points elsewhere

    # ------------------------------------------------------------------ the meta information: gradients

    def representation_gradients(self, features: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """∇_Q of the representation loss of T examples (or pairs), for the layer that has fast weights.

        features: [tasks, n, D], what enters the layer. Returns [tasks, T, hidden, D + 1]. The gradient of a linear
        layer's weights is the gradient at its output times its input, so that no loop over examples is needed.
        """
        generator = generator or torch.Generator().manual_seed(0)
        contrastive = self.representation_loss == "contrastive"
        if self.representation_loss == "paper":
            contrastive = int(F.one_hot(labels).sum(1).max()) > 1
        chosen = pairs_of if contrastive else singles
        first, second = chosen(features.shape[1], self.examples, generator, features.device)
        with torch.enable_grad():  # also under no_grad: what is written depends on gradients
            features = features if self.second_order else features.detach()
            if not contrastive:
                z = self._output(self.u.fc, features[:, first])
                logits = self.u.activation(z) @ self.head_u[: int(labels.max()) + 1].t()
                loss = F.cross_entropy(logits.flatten(0, 1), labels[:, first].flatten(), reduction="sum")
                return self._gradients(loss, {"z": (z, features[:, first])})["z"]
            a, b = (self._output(self.u.fc, features[:, index]) for index in (first, second))
            same = (labels[:, first] == labels[:, second]).to(a.dtype)
            loss = contrastive_loss(self.u.activation(a), self.u.activation(b), same).sum()
            found = self._gradients(loss, {"a": (a, features[:, first]), "b": (b, features[:, second])})
            return found["a"] + found["b"]

    def task_gradients(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """∇_i of each support image by itself: "fc" [tasks, n, hidden, D + 1], "head" [tasks, n, way, hidden + 1]."""
        with torch.enable_grad():
            features = features if self.second_order else features.detach()
            z = self._output(self.b.fc, features)
            hidden = self.b.activation(z)
            logits = self.head(hidden)[..., : int(labels.max()) + 1]
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            return self._gradients(loss, {"fc": (z, features), "head": (logits, hidden)})

    def _output(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """layer(x), where a gradient can be asked for: with its history (second_order) or without."""
        z = layer(x)
        return z if self.second_order and z.requires_grad else z.detach().requires_grad_()

    def _gradients(self, loss: Tensor, layers: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """From the (output, input) of linear layers to the gradients of their weights, one for each image."""
        outputs = {name: output for name, (output, _) in layers.items()}
        at_output = inner.gradient(loss, outputs, create_graph=self.second_order)
        return {
            name: at_output[name].unsqueeze(-1) * self._constant(with_one(x)).unsqueeze(-2)
            for name, (_, x) in layers.items()
        }

    def _constant(self, x: Tensor) -> Tensor:
        return x if self.second_order else x.detach()

    # ------------------------------------------------------------------ write and read

    def write(self, of_u: Tensor, of_b: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> State:
        """The state, from the features [tasks, n, D] of the support images in u and in b."""
        to_u, to_b = self.representation_gradients(of_u, labels, generator), self.task_gradients(of_b, labels)
        fast_u = self.d(to_u) / to_u.shape[-1]
        state = {
            "memory_fc": self.m(to_b["fc"]) / to_b["fc"].shape[-1],
            "memory_head": self.m(to_b["head"]) * to_b["head"].shape[-1] ** 0.5,
        }
        return state | {"fast_u": fast_u, "keys": augmented(self.u.fc, fast_u, of_u, self.u.activation)}

    def attention(self, state: State, of_u: Tensor) -> Tensor:
        """softmax(cos(R, r)), what queries read of support images: [tasks, queries, n]."""
        r = augmented(self.u.fc, state["fast_u"], of_u, self.u.activation)
        return (self.sharpness * cosines(r, state["keys"])).softmax(-1)

    def read(self, state: State, of_u: Tensor, of_b: Tensor) -> Tensor:
        """Logits [tasks, queries, way], from the features of the queries in u and in b.

        A layer is linear in its weights, so (Σ_i a_i W*_i)·x = Σ_i a_i (W*_i·x): no query's W*
        is ever put together.
        """
        a = self.attention(state, of_u)
        fast = mixed(a, state["memory_fc"], of_b)
        hidden = self.b.activation(self.b.fc(of_b)) + self.b.activation(fast)
        fast = mixed(a, state["memory_head"], hidden)
        return self.head(hidden)[..., : fast.shape[-1]] + fast

    # ------------------------------------------------------------------ the learner

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the augmented layers of u and of b, each [tasks, images, D]; each image by itself."""
        with evaluation_mode(self.u), evaluation_mode(self.b):
            return self.u.features(x), self.b.features(x)

    def inner_process(self, support_x: Tensor, support_y: Tensor, *, generator=None, **_) -> State:
        way_of(support_y, at_most=self.head.out_features, who="this Meta-Network")
        return self.write(*self.features(support_x), support_y, generator)

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return self.read(state, *self.features(query_x))

    def outer_process(self, batch, *, generator=None, **_) -> tuple[Tensor, Tensor]:
        way_of(batch.support_y, at_most=self.head.out_features, who="this Meta-Network")
        # One pass for support and queries, so that in training both see the same batch statistics.
        x = torch.cat([batch.support_x, batch.query_x], 1)
        n = batch.support_x.shape[1]
        of_u, of_b = self.u.features(x), self.b.features(x)
        state = self.write(of_u[:, :n], of_b[:, :n], batch.support_y, generator)
        logits = self.read(state, of_u[:, n:], of_b[:, n:])
        return self.loss(logits, batch.query_y), logits

    def prototype_head(self) -> PrototypicalNetwork:
        """The same slow network, u with its weights Q, as a prototypical network: no fast weights, no meta-learners.

        It shares Q with this learner. Trained from random weights, it is the ablation that fast weights must beat; b, d
        and m, more than half of the parameters, have no part in it.
        """
        return PrototypicalNetwork(self.u)


class OtherEpisode(Learner):
    """A Meta-Network that answers each episode with what it wrote for ANOTHER one, the episode before in the batch.

    It is for a paired comparison: `compare(evaluate(learner, …), evaluate(OtherEpisode(learner), …))`.
    parts: the entries of the state that come from the other episode (None: all).
    """

    mixes_tasks = True

    def __init__(self, learner: MetaNetwork, parts: tuple[str, ...] | None = None):
        super().__init__()
        self.learner, self.parts, self.normalisation = learner, parts, learner.normalisation

    def inner_process(self, support_x: Tensor, support_y: Tensor, **settings) -> State:
        if len(support_x) < 2:
            raise CourseError("1 episode at a time has no other to take fast weights from; give 2 or more at once")
        state = self.learner.adapt(support_x, support_y, **settings)
        parts = state if self.parts is None else self.parts
        unknown = [name for name in parts if name not in state]
        if unknown:
            raise CourseError(f"the state has no {unknown[0]!r}; it has {', '.join(state)}")
        return {name: value.roll(1, 0) if name in parts else value for name, value in state.items()}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return self.learner.predict(state, query_x)


def _start_downhill(writer: nn.Module, last: nn.Linear) -> None:
    """Let m or d, whose last layer is given, start by writing more than 0 for g = −0.02 and 0 for g = 0.02."""
    with torch.no_grad():
        for name, value in writer.named_parameters():
            if "bias" in name:
                value.zero_()
        down, up = (writer(torch.full((1, 1, 1), g)).squeeze() for g in (-0.02, 0.02))
        sign = 1.0 if down > up else -1.0
        last.weight.mul_(sign)
        last.bias.fill_(-sign * up)


def contrastive_loss(a: Tensor, b: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """½ l D² + ½ (1 − l) max(0, margin − D)² with D = ‖a − b‖ and l = 1 for a pair of one class: [..., H] → [...].

    Hadsell, Chopra, LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*, 2006,
    https://doi.org/10.1109/CVPR.2006.100.
    """
    squared = (a - b).square().sum(-1)
    apart = (margin - (squared + 1e-12).sqrt()).clamp_min(0)  # the root of 0 has no derivative
    return 0.5 * (same * squared + (1 - same) * apart.square())


def mixed(a: Tensor, memory: Tensor, x: Tensor) -> Tensor:
    """Σ_i a_i W*_i·x: attention [tasks, q, n], memory [tasks, n, H, D + 1], x [tasks, q, D] → [tasks, q, H]."""
    each = with_one(x) @ memory.flatten(1, 2).transpose(1, 2)  # [tasks, q, n·H]
    return (a.unsqueeze(-2) @ each.unflatten(-1, memory.shape[1:3])).squeeze(-2)


def singles(n: int, examples: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of T (or all n, if fewer) of n examples, in random order."""
    first = torch.randperm(n, generator=generator)[:examples].to(device)
    return first, first


def pairs_of(n: int, examples: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the two examples of T random pairs."""
    if n < 2:
        raise CourseError("the support set has 1 image, but a contrastive loss needs pairs; use cross-entropy")
    first = torch.randint(n, (examples,), generator=generator)
    second = (first + torch.randint(1, n, (examples,), generator=generator)) % n
    return first.to(device), second.to(device)


register(
    "metanet",
    learner=MetaNetwork,
    help="gradients go in, fast weights come out",
    title="Meta-Networks",
    paper=Paper("Munkhdalai, Yu", "Meta Networks", 2017, "https://arxiv.org/abs/1703.00837"),
    published={"omniglot 5-way 1-shot": 98.95, "omniglot 20-way 1-shot": 97.0},
    setting="a split of 1,200 and 423 characters; normalisation not looked up",
    network=ENCODER,
    head=True,
    recipes={  # no paper recipe: the encoder of Munkhdalai & Yu is another
        "smoke": Recipe(steps=3, tasks=2, rate=1e-3, query=2, validate_every=3, validation_episodes=10),
        # Most of a step's time goes into d, which reads T gradients of each fast weight: T = 2 of the 5 examples.
        "short": Recipe(
            steps=3000, tasks=4, rate=3e-3, query=15, validate_every=500, options={"examples": 2}, many_way={"tasks": 1}
        ),
    },
)
