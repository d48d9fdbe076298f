"""What a run came to: its result, its report, the file to ship, and what spoke against it."""
