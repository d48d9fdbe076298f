"""Repeatability: how much the times of one file differ from themselves on a machine."""
