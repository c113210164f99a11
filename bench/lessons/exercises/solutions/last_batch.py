"""Sums, divided once; the mode is put back."""

import torch
from torch.nn import functional as F


def evaluate(model, batches):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        total = sum(F.cross_entropy(model(inputs), labels, reduction="sum").item() for inputs, labels in batches)
    model.train(was_training)
    return total / sum(len(labels) for _, labels in batches)
