"""Reconstruction: the kept weights of a cut program are fitted again, so that every layer gives its former output."""
