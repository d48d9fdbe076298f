"""Selection: which channels are removed."""
