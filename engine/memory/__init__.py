"""Memory: measured, estimated, and what is done when it is short."""
