"""What Retort uses of the machine: its cache folder, its Java, its memory, and its output streams."""
