"""Retort: distil, prune, quantize, export and serve a trained PyTorch model, with the proof beside it."""
