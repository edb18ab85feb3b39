"""Runs on Ray: the only package that imports it, and only where a run asks for workers."""
