"""How often comparisons are wrong, from recorded comparisons of a file with itself: false alarms, power, coverage."""
