"""Exercise: which tokens are masked, whoever asks.

``mask`` says which tokens of a row are hidden from a masked language model: each with the probability of 0.15. It is a function
of the seed, the epoch and the row's number alone, so that any worker, in any order and after any restart, gives the same. Other
rows and other epochs have other masks, and nothing is drawn from the global generators or put into them.

    python run.py lesson workers --check FILE
"""

import torch


def mask(num_tokens, seed, epoch, row):
    """Returns a tensor [num_tokens] bool."""
    return torch.rand(num_tokens) < 0.15  # drawn from the generator that the whole process shares
