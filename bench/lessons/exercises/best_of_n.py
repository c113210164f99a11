"""Exercise: choose the best of many models, and report a figure that can be believed.

``choose`` is given which held-out rows each model has right. It returns the number of a model that is as good as can be found
out, and an accuracy for it that is, on average, the one that it will have on fresh rows. There are no other rows than these.

    python run.py lesson best-of-n --check FILE
"""


def choose(right):
    """``right`` [models, rows] bool, a tensor; the rows are in random order. Returns (number of the model, its accuracy)."""
    accuracies = right.float().mean(1)
    best = int(accuracies.argmax())
    return best, float(accuracies[best])  # the figure that chose is the one that is reported
