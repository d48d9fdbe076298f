"""TensorRT: optimisation profiles, the build of an engine, and the types in which its layers compute."""
