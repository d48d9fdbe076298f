"""Structured pruning by coupled labels: which channels go together, which of them go, and the proof of every cut."""
