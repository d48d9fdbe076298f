"""Decisions that need something made and timed first: the form of INT8, and the layers that stay in FP32."""
