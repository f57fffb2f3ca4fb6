"""Notebook 02, *Tasks and episodes*: its checks, its pictures, and what only this lesson uses."""
