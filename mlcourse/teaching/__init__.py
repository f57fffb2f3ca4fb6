"""The kit of every lesson: sessions, checks and their oracles, figures, widgets, the drawing pad, progress, tidying."""
