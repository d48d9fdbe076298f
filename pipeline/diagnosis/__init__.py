"""The doctor: comparison of the forms of a model, causes of faults, and checks of the environment."""
