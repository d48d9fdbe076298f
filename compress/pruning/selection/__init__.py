"""Selection of the channels to remove."""
