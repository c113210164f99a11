"""What Trainer would do with given TrainingArguments, told without running anything: ``python run.py xray``."""
