"""Between two steps: the log, evaluations, the best model, stopping, profiling."""
