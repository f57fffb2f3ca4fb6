"""Notebook 05, *Meta-gradients by hand*: its checks, its pictures, and what only this lesson uses."""
