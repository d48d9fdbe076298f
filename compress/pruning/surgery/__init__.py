"""Surgery: removes channels from the parameters and constants of a program."""
