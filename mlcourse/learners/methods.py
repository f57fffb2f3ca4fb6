"""What is said of a method stands once, in the method's own file; `register` puts it into the table METHODS.

A file in this folder with a learner and a call of `register` is a method: `mlcourse train --help` lists it, `train`,
`evaluate` and `build` know it by its name, and the results table takes its title, its paper and its figures from here.
`mlcourse --help` reads `register("name", help="…")` without running the file, so these two are written out, as text.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner

MANY = 20  # papers report 5 and 20 ways
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Paper:
    """Where a method comes from. authors: their family names, separated by commas."""

    authors: str
    title: str
    year: int
    link: str

    @property
    def short(self) -> str:
        """As one cites it in a line: "Snell et al. 2017"."""
        names = [name.strip() for name in self.authors.split(",")]
        return f"{names[0] if len(names) > 2 else ' & '.join(names)}{' et al.' if len(names) > 2 else ''} {self.year}"


@dataclass(frozen=True)
class Recipe:
    """Settings that work. tasks: the meta-batch. rate: the outer rate β of Adam. train_way, query: None: as at test.

    A method has up to three. They count steps, never minutes: `smoke` proves that everything runs, `short` takes at
    most ten minutes on a 2-core machine, `paper` is the published protocol and wants a GPU.
    """

    steps: int
    tasks: int
    rate: float
    schedule: str = "cosine"
    train_way: int | None = None
    query: int | None = None
    validate_every: int = 100
    validation_episodes: int = 200
    options: dict[str, Any] = field(default_factory=dict)  # of the learner
    many_way: dict[str, Any] = field(default_factory=dict)  # what is different in tasks of MANY classes or more


@dataclass(frozen=True)
class Method:
    """All that is said of a method; the fields are the arguments of `register`."""

    learner: type[Learner]
    network: dict[str, Any] | None
    head: bool
    options: dict[str, Any]
    help: str
    title: str
    paper: Paper | None
    published: Mapping[str, float]
    recipes: Mapping[str, Recipe]
    file: str  # where it was registered


METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    learner: type[Learner],
    help: str,
    network: Mapping[str, Any] | None = NOTHING,
    head: bool = False,
    options: Mapping[str, Any] = NOTHING,
    title: str | None = None,
    paper: Paper | None = None,
    published: Mapping[str, float] = NOTHING,
    recipes: Mapping[str, Recipe] = NOTHING,
) -> None:
    """Make a method known by its name.

    learner: its class. help: what it does, in a few words. network: the options of Conv-4 whose defaults are others
    here (None: the learner has no network). head: whether the network ends in `way` logits. options: the same of the
    learner's options. title: its name in tables (default: `name`). paper: where it comes from. published: the figures
    of that paper, in percent, such as {"omniglot 5-way 1-shot": 98.8}. recipes: by name; without one the method has
    nothing to train. Raises CourseError for a name that is taken.
    """
    file = inspect.currentframe().f_back.f_code.co_filename
    if name in METHODS and METHODS[name].file != file:  # a file that is read anew may register again
        raise CourseError(f"method {name!r} is registered in {METHODS[name].file} and in {file}; rename one of them")
    METHODS[name] = Method(
        learner=learner,
        network=None if network is None else dict(network),
        head=head,
        options=dict(options),
        help=help,
        title=title or name,
        paper=paper,
        published=published,
        recipes=recipes,
        file=file,
    )


def known(method: str) -> Method:
    """The method of that name. Raises CourseError, with the names that there are, for an unknown one."""
    if method not in METHODS:
        raise CourseError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    return METHODS[method]


def recipe(method: str, name: str, way: int = 5) -> Recipe:
    """The recipe `name` of a method, for `way` classes per task. Raises CourseError when there is none."""
    trainable = [one for one, about in METHODS.items() if about.recipes]
    if method not in trainable:
        raise CourseError(f"method {method!r} is unknown or has nothing to train; use one of {', '.join(trainable)}")
    recipes = METHODS[method].recipes
    if name not in recipes:
        raise CourseError(f"recipe {name!r} is unknown for {method}; use one of {', '.join(recipes)}")
    found = recipes[name]
    return replace(found, **found.many_way, many_way={}) if way >= MANY else found
