"""A finished model trained on new rows, too, and kept only if it is not worse."""
