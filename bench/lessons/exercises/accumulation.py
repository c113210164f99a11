"""Exercise: a step over several micro-batches whose gradient is that of one large batch.

``step`` gets the rows of one optimizer step cut into micro-batches, not all of the same size. However they are cut, the
weights afterwards must be those of one batch that holds all rows, with the mean of the loss over all of them.

    python run.py lesson accumulation --check FILE
"""

from torch.nn import functional as F


def step(model, optimizer, micro_batches):
    """``micro_batches``: a list of (inputs [n, features], labels [n]); n differs. One optimizer step, and no more."""
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(model(inputs), labels)  # the mean over these n rows
        loss.backward()  # change what is wrong with this gradient
    optimizer.step()
    optimizer.zero_grad()
