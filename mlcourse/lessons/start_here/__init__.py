"""Notebook 00, *Start here*: its checks, its pictures, and what only this lesson uses."""
