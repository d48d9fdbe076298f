"""Pages and tables of measurements under load."""
