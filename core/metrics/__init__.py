"""Metrics of a task, their confidence intervals, and the paired comparison of two models."""
