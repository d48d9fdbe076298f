"""The commands for other devices."""
