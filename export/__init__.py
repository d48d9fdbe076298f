"""Program in, ONNX out: `stage` runs the room, `translate` writes the graph, `verify` checks it, `lint` judges it."""
