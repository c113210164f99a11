"""Plainloop beside a plain loop, Accelerate, Trainer and Lightning Fabric."""
