"""Display of results: a table, a comparison of two results, and one HTML file."""
