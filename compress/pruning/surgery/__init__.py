"""Surgery: parameters and constants of a program cut to the channels that stay."""
