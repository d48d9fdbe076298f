"""Checks of a file against the program that it was made of."""
