"""Networks: plain `nn.Module`s, which know nothing of learning."""

from mlcourse.networks.conv4 import Conv4
from mlcourse.networks.normalisation import NORMALISATIONS, BatchStatistics

__all__ = ["NORMALISATIONS", "BatchStatistics", "Conv4"]
