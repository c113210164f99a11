"""What is wrong with a model, or with data, beyond a figure: slices, tests, near duplicates; and the file that keeps it."""
