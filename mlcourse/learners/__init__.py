"""Learners, one file per family; `build` makes one from its name, `save` and `load` keep it in a folder.

A file that is put into this folder is imported with the others, so that the methods that it registers are known.
"""

import importlib
import pkgutil

from mlcourse.learners.base import Learner
from mlcourse.learners.building import build, completed, most_ways, options_of, shape_of
from mlcourse.learners.distillation import DistilledClassifier, DistilledLearner, LearntImages, soft_cross_entropy
from mlcourse.learners.hypernet import HyperNetwork
from mlcourse.learners.implicit import ImplicitMAML
from mlcourse.learners.incontext import InContextLearner
from mlcourse.learners.maml import ANIL, MAML
from mlcourse.learners.matching import MatchingNetwork
from mlcourse.learners.metanet import MetaNetwork
from mlcourse.learners.methods import METHODS, Method, Paper, Recipe, recipe, register
from mlcourse.learners.modulation import FeatureModulation
from mlcourse.learners.pixels import PixelNeighbours
from mlcourse.learners.prototypical import PrototypicalNetwork, prototypes, squared_distances
from mlcourse.learners.relation import RelationNetwork
from mlcourse.learners.reptile import Reptile
from mlcourse.learners.ridge import R2D2, ridge
from mlcourse.learners.saving import CHECKPOINT, CONFIG, PREVIOUS, WEIGHTS, check_saving, load, load_run, restore, save
from mlcourse.learners.transfer import FineTune, MetaBaseline, PretrainedBody, choose_rate, load_body

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "ANIL", "CHECKPOINT", "CONFIG", "MAML", "METHODS", "PREVIOUS", "R2D2", "WEIGHTS", "DistilledClassifier",
    "DistilledLearner", "FeatureModulation", "FineTune", "HyperNetwork", "ImplicitMAML", "InContextLearner", "Learner",
    "LearntImages", "MatchingNetwork", "MetaBaseline", "MetaNetwork", "Method", "Paper", "PixelNeighbours",
    "PretrainedBody", "PrototypicalNetwork", "Recipe", "RelationNetwork", "Reptile", "build", "check_saving",
    "choose_rate", "completed", "load", "load_body", "load_run", "most_ways", "options_of", "prototypes", "recipe",
    "register", "restore", "ridge", "save", "shape_of", "soft_cross_entropy", "squared_distances",
]  # fmt: skip
