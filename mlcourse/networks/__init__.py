"""Networks: plain `nn.Module`s, which know nothing of learning."""

from mlcourse.networks.conv4 import Conv4
from mlcourse.networks.normalisation import NORMALISATIONS, BatchStatistics
from mlcourse.networks.recorded import Recorded, made_again

__all__ = ["NORMALISATIONS", "BatchStatistics", "Conv4", "Recorded", "made_again"]
