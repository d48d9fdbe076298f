"""What the rooms of compression share about graphs; so far the patches of PyTorch's private parts."""
