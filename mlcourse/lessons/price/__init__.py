"""Notebook 07, *The price of unrolling*: its checks, its pictures, and what only this lesson uses."""
