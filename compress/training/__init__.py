"""The training loop that train, distill, recovery and quantization-aware training share."""
