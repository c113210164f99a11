"""Exercise: what each of several processes multiplies its loss by.

Each process computes the SUM of the losses of its own tokens. Behind backward() DDP puts the mean over the processes in the
place of their gradients. ``factor`` returns what the sum is multiplied by before backward(), so that this mean is the gradient
of the mean over the tokens of all processes. A process may have no token at all.

    python run.py lesson ranks --check FILE
"""


def factor(num_tokens, world_size, sum_over_ranks):
    """``num_tokens``: of this process. ``sum_over_ranks(number)``: the sum over all; it returns when all have called it."""
    return 1 / max(num_tokens, 1)  # each takes the mean over its own tokens: is the mean of these the mean over all?
