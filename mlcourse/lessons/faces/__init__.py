"""Notebook 15, *Face recognition*: its checks, its pictures, and what only this lesson uses."""
