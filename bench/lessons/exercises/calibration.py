"""Exercise: a temperature for a model that is too sure, or not sure enough.

Logits divided by a temperature T give other probabilities and the same answers. ``temperature`` returns the T, between 0.05 and
20, with which the labels of these held-out rows are most likely: the mean of the cross-entropy is lowest.

    python run.py lesson calibration --check FILE
"""


def temperature(logits, labels):
    """``logits`` [N, C] float32, ``labels`` [N] int64, both tensors. Returns a number."""
    return 1.0  # the probabilities as they come
