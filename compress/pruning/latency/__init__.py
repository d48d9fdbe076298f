"""Pruning to a latency that is measured."""
