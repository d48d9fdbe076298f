"""TensorRT: profiles, the build of an engine, and what it computes in."""
