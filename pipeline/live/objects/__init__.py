"""What the functions of the library return: programs, graphs, engines, archives and comparisons."""
