"""DDP divides by the number of processes, so that is multiplied in; the tokens are counted over all."""


def factor(num_tokens, world_size, sum_over_ranks):
    """A process without tokens counts along: the others wait for its word."""
    return world_size / sum_over_ranks(num_tokens)
