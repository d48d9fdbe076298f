"""Pruning to a measured latency."""
