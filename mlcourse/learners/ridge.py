"""R2-D2: the head is ridge regression, solved exactly for each task, and the gradient goes through the solution.

Bertinetto, Henriques, Torr, Vedaldi, *Meta-learning with differentiable closed-form solvers*, 2019,
https://arxiv.org/abs/1805.08136. With the paper's symbols, X the embedded support set and Y its one-hot labels:

    W = argmin ‖XW − Y‖² + λ‖W‖² = (XᵀX + λI)⁻¹XᵀY = Xᵀ(XXᵀ + λI)⁻¹Y        logits of queries X′: α X′W + β

The second solution (by Woodbury's identity) inverts a matrix as large as the support set is, the first one as large as
the embedding: a few images, hundreds of numbers. λ, α and β are outer parameters.

Choices of this file: the encoder is the Conv-4 of the other learners (the paper's is wider, and hands on two layers'
outputs); λ and α are learned as logarithms, so that λ > 0 always; λ starts at 1 and α at 10. With softmax and
cross-entropy β moves all logits of a query together, so it changes no probability; it is here because the paper has it.
"""

import torch
from torch import Tensor, nn

from mlcourse.errors import CourseError
from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.metric import MetricLearner, log_of, members
from mlcourse.learners.prototypical import ENCODER, recipes_of_encoders


def ridge(x: Tensor, y: Tensor, lam: Tensor | float) -> Tensor:
    """W = Xᵀ(XXᵀ + λI)⁻¹Y, which minimises ‖XW − Y‖² + λ‖W‖². Differentiable in all three.

    x: [..., n, D], n images with D numbers each. y: [..., n, way]. lam: λ > 0, one number, or a tensor that broadcasts
    with the leading dimensions. Returns [..., D, way].
    Raises CourseError for a λ that is not above 0: without it the inverse need not exist.
    """
    lam = torch.as_tensor(lam, dtype=x.dtype, device=x.device)
    if (lam <= 0).any():
        raise CourseError(f"λ is {lam.min().item():g}; ridge regression needs a λ above 0")
    gram = x @ x.mT + lam[..., None, None] * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    return x.mT @ torch.linalg.solve(gram, y)


class R2D2(MetricLearner):
    """θ is the encoder, λ, α and β; adapt solves ridge regression; predict is one linear layer.

    network: as in MetricLearner. strength: λ at the start. scale: α at the start; both above 0.
    state: weights W [tasks, D, way].
    """

    def __init__(self, network: nn.Module, *, strength: float = 1.0, scale: float = 10.0):
        super().__init__(network)
        self.log_strength, self.log_scale = log_of("strength", strength), log_of("scale", scale)
        self.bias = nn.Parameter(torch.zeros(()))

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        y = members(support_y, way_of(support_y), z.dtype)
        return {"weights": ridge(z, y, self.log_strength.exp())}

    def compare(self, state: State, z: Tensor) -> Tensor:
        return self.log_scale.exp() * (z @ state["weights"]) + self.bias


register(
    "r2d2",
    learner=R2D2,
    help="solves ridge regression on embeddings",
    title="R2-D2 (ridge regression)",
    paper=Paper(
        "Bertinetto, Henriques, Torr, Vedaldi",
        "Meta-learning with differentiable closed-form solvers",
        2019,
        "https://arxiv.org/abs/1805.08136",
    ),
    network=ENCODER,
    recipes=recipes_of_encoders(6000),  # no paper recipe: the encoder of Bertinetto et al. is another
)
