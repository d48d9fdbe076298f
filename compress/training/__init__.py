"""The one training loop that train, distill, recovery and quantization-aware training share."""
