"""The table of bad inputs, and whoever judges it."""
