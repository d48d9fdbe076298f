"""Bundles: a model with its settings, checksums and runtime, and the servers in Python that it brings."""
