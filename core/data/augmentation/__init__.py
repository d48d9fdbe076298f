"""Augmentation: pure, seeded transforms of training samples, and the checks of what is right for which input."""
