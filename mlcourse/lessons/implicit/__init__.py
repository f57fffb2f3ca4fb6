"""Notebook 08, *Implicit meta-gradients*: its checks, its pictures, and what only this lesson uses."""
