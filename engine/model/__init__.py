"""What is done to a stock model, in place."""
