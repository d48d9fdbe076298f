"""What is generated for other servers than TorchServe, each from the same bundle."""
