"""A session of `raykd distill`: what is planned, the rounds, and how it ends."""
