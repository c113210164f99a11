"""Exercise: the loss of a language model over the tokens that are there.

Rows of different length are padded on the right. Each position predicts the token behind it; the loss is the mean of the
cross-entropy over all such pairs of real tokens in the batch, each pair weighing the same.

    python run.py lesson num-items --check FILE
"""

from torch.nn import functional as F


def loss(logits, ids, mask):
    """``logits`` [B, T, V], ``ids`` [B, T], ``mask`` [B, T]: 1 for a token, 0 for padding. Returns a scalar tensor."""
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())  # each position is asked for its own token, and padding counts
