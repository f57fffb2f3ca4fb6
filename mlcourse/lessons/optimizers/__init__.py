"""Notebook 10, *Learned optimizers*: its checks, its pictures, and what only this lesson uses."""
