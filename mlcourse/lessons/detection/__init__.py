"""Notebook 14, *Few-shot detection*: its checks, its pictures, and what only this lesson uses."""
