"""Data sets: what may be known of them, where their images lie, and the batches made of them."""
