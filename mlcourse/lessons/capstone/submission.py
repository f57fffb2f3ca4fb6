"""A submission to the challenge: one learner, in a file of its own. Change it, and run the challenge again.

It trains nothing. Where does the ink change, in which of eight directions, in each part of the picture? These are its
features (after Dalal & Triggs, Histograms of Oriented Gradients for Human Detection, 2005).
"""

import torch
from torch.nn import functional as F

from mlcourse.learners import Learner


class Edges(Learner):
    trains_on = "nothing"

    def features(self, x):
        grey = x.flatten(0, 1).mean(1, keepdim=True)
        dy, dx = torch.gradient(grey, dim=(2, 3))
        angles = torch.atan2(dy, dx) - torch.arange(8).view(8, 1, 1) * torch.pi / 4
        strength = torch.hypot(dx, dy) * angles.cos().clamp_min(0) ** 4
        parts = F.adaptive_avg_pool2d(strength, 9).sqrt()
        return F.normalize(parts.flatten(1), dim=1).unflatten(0, x.shape[:2])

    def inner_process(self, support_x, support_y, **_):
        of_class = F.one_hot(support_y).to(support_x.dtype)
        return {"prototypes": F.normalize(of_class.mT @ self.features(support_x), dim=2)}

    def predict(self, state, query_x):
        return 20 * self.features(query_x) @ state["prototypes"].mT
