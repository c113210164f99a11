"""A finished model behind HTTP: what arrives together is computed together, within limits."""
