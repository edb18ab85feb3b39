"""Experiment trackers: MLflow and Weights & Biases are told how runs go, and no run ever waits for them."""
