"""Rewrites of a program before the placement of Q/DQ nodes."""
