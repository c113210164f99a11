"""All temperatures on a fine grid of their logarithms; the loss has one valley, so a search by halves would do, too."""

import torch
from torch.nn import functional as F


def temperature(logits, labels):
    tried = torch.logspace(-1.3, 1.3, 1001)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in tried])
    return float(tried[losses.argmin()])
