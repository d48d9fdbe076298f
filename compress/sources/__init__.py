"""Sources of models: the user's own module or a Hugging Face folder."""
