"""Suites: what the toolkit claims, measured on many models with one command each."""
