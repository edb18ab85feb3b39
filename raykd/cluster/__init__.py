"""Descriptions of clusters, what starts them, and jobs sent to them."""
