"""From a program to ONNX: `translate` writes the graph, `verify` compares it, `lint` checks it, `stage` runs them."""
