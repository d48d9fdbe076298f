"""Data: splits, their sources, and references to the user's code."""
