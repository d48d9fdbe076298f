"""Explicit Q/DQ in the ONNX file, in the form that the target runs fastest."""
