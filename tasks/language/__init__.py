"""Language models: masked, causal, supervised fine-tuning; fill and generate."""
