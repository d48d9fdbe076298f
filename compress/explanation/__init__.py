"""Explanations that look into a captured program: its gradients and its attention."""
