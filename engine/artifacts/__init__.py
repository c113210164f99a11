"""What a run leaves in its directory: run.json, the model card, the report."""
