"""Correction: methods that reduce the error of an INT8 program after calibration."""
