"""Searches over recipes: the space, the study, who proposes. Imports Optuna, never Ray."""
