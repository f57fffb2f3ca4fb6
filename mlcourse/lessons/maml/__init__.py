"""Notebook 06, *MAML, from sinusoids to images*: its checks, its pictures, and what only this lesson uses."""
