"""Runs on Ray: the one room that imports it to train."""
