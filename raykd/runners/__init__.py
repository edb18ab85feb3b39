"""Where runs happen: in this process, as a batch, or on Ray."""
