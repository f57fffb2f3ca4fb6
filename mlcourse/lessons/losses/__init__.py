"""Notebook 01, *Inner and outer losses*: its checks, its pictures, and what only this lesson uses."""
