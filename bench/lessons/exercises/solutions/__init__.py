"""The exercises solved, one way of several each; tests/bench/test_exercises.py checks them."""
