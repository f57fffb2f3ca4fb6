"""Notebook 16, *Transfer and distillation*: its checks, its pictures, and what only this lesson uses."""
