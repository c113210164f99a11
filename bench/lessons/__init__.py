"""Small experiments, each showing one thing that Trainer hides: python run.py lesson NAME. See docs/what-trainer-hides.md."""
