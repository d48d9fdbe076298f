"""Decisions that need measurements of finished files: the form of INT8, and the layers that stay in FP32."""
