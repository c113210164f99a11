"""One text written from another."""
