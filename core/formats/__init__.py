"""Model files as they are on disk, read without torch."""
