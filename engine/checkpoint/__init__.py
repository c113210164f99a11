"""Checkpoints: what is in them, how they come onto the disk whole, and when."""
