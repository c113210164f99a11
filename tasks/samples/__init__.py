"""Embedded data for where there is no Hub, made by this project and said to be synthetic."""
