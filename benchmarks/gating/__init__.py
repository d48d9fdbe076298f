"""Gating: whether models are still as fast, as accurate and as small as a stored baseline."""
