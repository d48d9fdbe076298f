"""What each metric counts, a concept per file, and the table of all metrics."""
