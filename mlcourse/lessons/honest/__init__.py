"""Notebook 12, *Few-shot classification, honestly*: its checks, its pictures, and what only this lesson uses."""
