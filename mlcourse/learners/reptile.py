"""Reptile: train on a task for a while, then move the start a little towards where that ended.

Nichol, Achiam, Schulman, *On First-Order Meta-Learning Algorithms*, 2018, https://arxiv.org/abs/1803.02999.
"""

import torch
from torch import Tensor, nn

from mlcourse import inner
from mlcourse.episodes import uniform_of_tasks
from mlcourse.errors import check_whole
from mlcourse.learners.base import State
from mlcourse.learners.maml import ADAPTED, MAML, recipes_of_relatives
from mlcourse.learners.methods import Paper, register
from mlcourse.meta_gradients.surrogate import surrogate


class Reptile(MAML):
    """θ is the start of the network, as in MAML; its "gradient" is θ − φ_T. No graph, so memory is flat in T.

    θ − φ_T is the sum of the T inner gradients, times α; it is not divided by α or T, and is the mean over tasks.
    It is the gradient of no loss. (The paper adds ε(φ_T − θ) to θ, or hands θ − φ_T to Adam, as `training.train` does.)

    inner_steps, inner_rate, evaluation_inner_steps, one_by_one, normalisation: as in `MAML`. The paper's inner
    optimizer is Adam without momentum; here it is gradient descent. all_images: in training, descend on support and
    query images together, since Reptile needs no split. inner_batch: images of a task in each training step, drawn anew
    (None: all; then it loses what the paper's section 5 is about, the products of the gradients of different batches).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        inner_steps: int = 5,
        inner_rate: float = 0.1,
        evaluation_inner_steps: int | None = None,
        one_by_one: bool = False,
        all_images: bool = True,
        inner_batch: int | None = None,
    ):
        super().__init__(
            network,
            inner_steps=inner_steps,
            inner_rate=inner_rate,
            evaluation_inner_steps=evaluation_inner_steps,
            one_by_one=one_by_one,
        )
        if inner_batch is not None:
            check_whole("inner_batch", inner_batch, least=1)
        self.all_images, self.inner_batch = all_images, inner_batch

    answers_with_graph = False  # its outer step follows θ − φ_T, no derivative of what it predicts

    def outer_process(self, batch, generator=None, **_) -> tuple[Tensor, Tensor]:
        """The query loss at φ_T, and the predictions; `.backward()` leaves the mean of θ − φ_T over tasks in `.grad`.

        With all_images the queries were trained on: loss and accuracy are then no estimate for new images.
        """
        theta = self.start()
        with torch.no_grad():
            state = self.descend(batch, generator)
            prediction = self.predict(state, batch.query_x)
            loss = self.loss(prediction, batch.query_y)
            moves = [(value - state["fast"][name]).mean(0) for name, value in theta.items()]
        return surrogate(loss, list(theta.values()), moves), prediction

    def descend(self, batch, generator: torch.Generator | None = None) -> State:
        """φ_T of each task, by T inner steps on all its images (or on its support set), or on batches of them."""
        x, y = batch.support_x, batch.support_y
        if self.all_images:
            x, y = torch.cat([x, batch.query_x], 1), torch.cat([y, batch.query_y], 1)
        generator = generator or torch.Generator().manual_seed(0)  # never the global one: it is not ours to move
        tasks, images = y.shape[:2]
        way, number = self._way(y), torch.arange(tasks).unsqueeze(1)
        fast = {name: value.expand(tasks, *value.shape) for name, value in self.start().items()}
        for _ in range(self.inner_steps):
            some = x, y
            if self.inner_batch is not None and self.inner_batch < images:
                rows = uniform_of_tasks(tasks, images, generator=generator).argsort(1)[:, : self.inner_batch]
                some = x[number, rows], y[number, rows]
            settings = {"steps": 1, "rate": self.inner_rate, "loss": self.summed(way), "create_graph": False}
            fast = inner.adapt(self.call_tasks, fast, *some, **settings)
        return {"fast": fast, "step": self.inner_steps, "support_x": batch.support_x, "way": way}


register(
    "reptile",
    learner=Reptile,
    help="moves the start towards where descent ended",
    title="Reptile",
    paper=Paper(
        "Nichol, Achiam, Schulman",
        "On First-Order Meta-Learning Algorithms",
        2018,
        "https://arxiv.org/abs/1803.02999",
    ),
    published={
        "omniglot 5-way 1-shot": 95.39,
        "omniglot 5-way 5-shot": 98.90,
        "omniglot 20-way 1-shot": 88.14,
        "omniglot 20-way 5-shot": 96.65,
    },
    setting="a random split, 1,200 characters to train; inductive",
    network=ADAPTED,
    head=True,
    # batches of images: as in the paper
    recipes=recipes_of_relatives(4000, inner_steps=8, evaluation_inner_steps=8, inner_rate=0.2, inner_batch=10),
)
