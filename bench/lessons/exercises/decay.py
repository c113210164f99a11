"""Exercise: weight decay for the matrices only.

``make_optimizer`` returns an AdamW that trains every parameter of the model, and decays weights of linear layers and
embeddings, but no bias and no parameter of a norm, whatever it is called.

    python run.py lesson decay --check FILE
"""

import torch


def make_optimizer(model, learning_rate, weight_decay):
    """``torch.optim.AdamW`` over all parameters of the model, in groups."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)  # this decays them all
