"""The engine: a training loop in plain PyTorch and the parts it stands on. Start reading in loop.py."""
