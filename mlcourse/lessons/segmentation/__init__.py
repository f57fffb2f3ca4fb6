"""Notebook 13, *Few-shot segmentation*: its checks, its pictures, and what only this lesson uses."""
