"""Notebook 04, *Meta-networks*: its checks, its pictures, and what only this lesson uses."""
