"""Live objects: the programs, graphs, results and data of a script or a notebook."""
