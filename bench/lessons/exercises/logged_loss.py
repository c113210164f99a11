"""Exercise: the losses of a log that is written every so many steps.

Each step has handed over the sum of its rows' losses, and how many rows it had. ``logged`` returns a loss for each line of the
log: the mean over the rows of the steps since the line before, each row weighing the same. There is a line behind every
``every`` steps, and one at the end for the steps that are left, if there are any. A window without rows has None.

    python run.py lesson logged-loss --check FILE
"""


def logged(steps, every):
    """``steps``: a list of (sum of the losses, number of rows). Returns a list of floats, or None."""
    means = [total / rows for total, rows in steps]
    return [sum(means[i : i + every]) / every for i in range(0, len(means), every)]  # a mean over steps
