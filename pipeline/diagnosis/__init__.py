"""The doctor: forms of a model compared, the cause of a fault, and what the environment lacks."""
