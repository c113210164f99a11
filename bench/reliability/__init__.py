"""Kills, faults, endurance, lost ranks, memory of checkpoints."""
