"""Exercise: the order in which an epoch reads the rows.

``order`` gives each row once, shuffled, as a function of the seed and the epoch alone: called again it gives the same, so that
a run can be resumed. Other epochs and other seeds have other orders, no epoch of one seed has that of another seed, and nothing
is drawn from the global generator, on which dropout depends.

    python run.py lesson order --check FILE
"""


def order(num_rows, seed, epoch):
    """The numbers 0 to num_rows - 1 in the order of this epoch, as a list."""
    return list(range(num_rows))  # not shuffled yet
