"""Checks of an ONNX file against the program from which it was made."""
