"""Sparsity: weights that become zero in place."""
