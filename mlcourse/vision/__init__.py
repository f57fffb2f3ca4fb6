"""Meta-learning that sees: segmentation, and what is told of a task of vision in one place."""
