"""Timing: compares several models with a reference in interleaved blocks, with an interval for every ratio."""
