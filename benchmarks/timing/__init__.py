"""Timing: several models against one of them, by interleaved blocks, with an interval for every ratio."""
