"""Notebook 03, *Learning to compare*: its checks, its pictures, and what only this lesson uses."""
