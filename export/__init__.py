"""Program in, ONNX out: `stage` runs the room, `onnx_graph` translates, `parity` proves, `lint` and `kernels` judge."""
