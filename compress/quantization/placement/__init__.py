"""Placement: which tensors get Q/DQ nodes."""
