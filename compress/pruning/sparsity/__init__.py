"""Sparsity: weights that are set to zero without changing shapes."""
