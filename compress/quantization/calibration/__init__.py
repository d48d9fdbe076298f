"""Calibration: ranges of activations from samples."""
