"""Whether a result is what was measured: its form, its figures from its raw times, and the measured files."""
