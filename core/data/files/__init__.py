"""Data in folders: arrays, images, recordings and texts, with a folder per class or a table of labels."""
