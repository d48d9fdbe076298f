"""The commands that ask a model, served or local: for its outputs, and for what it looks at."""
