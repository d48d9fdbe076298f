"""The commands of `retort bench`: what measures models on this machine."""
