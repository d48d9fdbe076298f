"""Results for people: a table, a comparison of two, and one HTML file."""
