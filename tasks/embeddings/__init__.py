"""Vectors of texts, and search."""
