"""The folders of runs: what each says of itself, what it will take, and what may be deleted."""
