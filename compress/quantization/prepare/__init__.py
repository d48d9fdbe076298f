"""Rewrites of a program before Q/DQ nodes are placed."""
