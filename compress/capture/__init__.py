"""Capture of a module as a program."""
