"""Data of a script converted to splits: loaders, datasets, arrays, batches and iterables."""
