"""Benchmark suites: measurements of the toolkit's claims on many models, with one command each."""
