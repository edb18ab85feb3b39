"""One verb, one file: what a command does beside training."""
