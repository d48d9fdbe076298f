"""Live objects: the programs, graphs, results and data that a script or a notebook holds in its hands."""
