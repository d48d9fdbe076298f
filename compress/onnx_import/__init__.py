"""People who have only an ONNX file: its graph as a PyTorch module, to be captured like any other."""

from .stage import import_onnx as import_onnx
