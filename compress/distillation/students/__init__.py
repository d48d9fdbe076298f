"""Students made from their teacher: fewer layers, fewer residual blocks, or fewer channels, with inherited weights."""
