"""Data sets: their specs, the files of their images, and the batches made of them."""
