"""TorchServe: the archive that it loads, and the server that Retort starts on this machine."""
