"""Notebook 11, *When gradients fail*: its checks, its pictures, and what only this lesson uses."""
