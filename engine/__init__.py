"""The engine: one training loop (loop.py) and what it stands on. docs/architecture.md is the map."""

VERSION = "0.1.0"  # of Plainloop: that of pyproject.toml
