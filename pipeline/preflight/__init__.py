"""Preflight: whether a recipe can run, found out before its first stage."""
