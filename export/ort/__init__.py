"""Graph forms and measurements for ONNX Runtime, and workarounds for the exporter's libraries."""
