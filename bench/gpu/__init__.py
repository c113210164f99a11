"""A session on a GPU: correctness first, then where a step's time goes, then the contests."""
