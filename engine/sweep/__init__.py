"""Several settings, several seeds, each an ordinary run: which is best, and is that more than chance?"""
