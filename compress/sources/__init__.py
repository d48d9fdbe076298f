"""Where models come from: the user's own module or a Hugging Face folder."""
