"""The layers of a teacher and a student whose values are compared, and what makes them comparable."""
