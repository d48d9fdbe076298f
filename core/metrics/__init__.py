"""Metrics of a task, their intervals, and the paired comparison of two models."""
