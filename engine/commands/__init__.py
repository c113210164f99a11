"""The commands on a finished model, and their flags."""
