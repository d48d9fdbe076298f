"""TorchServe archives: how they are written, what they may contain, and how they prove themselves."""
