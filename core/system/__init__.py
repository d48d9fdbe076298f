"""What Retort uses of the machine: its cache folder, its Java and its memory."""
