"""Decisions that need timings of exported files: the form of INT8, layers that stay in FP32, and latency budgets."""
