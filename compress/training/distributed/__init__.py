"""Training in several processes: how they meet, what they send each other, and statistics over all of their rows."""
