"""FP16 and BF16 in the ONNX file."""
