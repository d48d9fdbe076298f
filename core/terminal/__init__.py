"""What people see in a terminal or a log: tables of any width, signs of life, and what an interruption keeps."""
