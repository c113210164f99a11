"""Does it learn what Trainer's learns? Parity, seeds, samples, the tutorials."""
