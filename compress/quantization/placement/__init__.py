"""Placement: where Q/DQ nodes go."""
