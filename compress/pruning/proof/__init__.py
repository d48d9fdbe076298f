"""The proof that a cut changed nothing but the removed channels."""
