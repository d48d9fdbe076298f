"""What export knows of ONNX Runtime and of the exporter's own libraries."""
