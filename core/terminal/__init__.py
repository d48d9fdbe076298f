"""What people see in a terminal or a log: tables of any width, signs of life, streams, and what interruptions keep."""
