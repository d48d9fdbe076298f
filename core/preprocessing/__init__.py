"""What makes a model's inputs of pictures, texts and recordings, the same in training and behind an endpoint."""
