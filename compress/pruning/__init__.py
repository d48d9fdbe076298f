"""Structured pruning by coupled channel labels: the groups of channels, the choice of a cut, and its proof."""
