"""Coupling: which channels must be removed together."""
