"""Predict what a run will need before it starts."""
