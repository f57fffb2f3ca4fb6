"""Notebook 17, *Capstone: a challenge and the road ahead*: its checks, its pictures, and what only this lesson uses."""
