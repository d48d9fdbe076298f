"""The losses of distillation as pure functions of tensors, each with the paper that it comes from."""
