"""Import of ONNX files: the graph as a PyTorch module, which can be captured like any other module."""

from .stage import import_onnx as import_onnx
