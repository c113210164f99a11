"""``run.py tune``: the fastest settings of a training on this machine."""
