"""Notebook 09, *Searching meta-knowledge*: its checks, its pictures, and what only this lesson uses."""
