"""Worker processes that read samples: the same batches in the same order for any number of them."""
