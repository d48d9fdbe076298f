"""Data of a script as splits: loaders, datasets, arrays, batches and iterables."""
