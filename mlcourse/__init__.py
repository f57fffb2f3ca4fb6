"""A hands-on course on meta-learning for computer vision, and the small package behind it.

`mlcourse.load(DIR)` gives a trained learner back. Everything else lives in its own room: `mlcourse.datasets`,
`mlcourse.episodes`, `mlcourse.learners`, `mlcourse.training`, ... `mlcourse/README.md` is the plan of the house.
"""

from mlcourse import threads

__version__ = "0.1.0"

threads.settle()  # before torch is imported, which everything else here does


def __getattr__(name):
    # Late on purpose: `mlcourse.environment` runs before torch is installed, and `mlcourse --help` waits for nothing.
    if name == "load":
        from mlcourse.learners import load

        return load
    raise AttributeError(f"module 'mlcourse' has no attribute {name!r}")
