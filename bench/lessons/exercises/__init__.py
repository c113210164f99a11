"""A file for each exercise, as a student gets it; ``solutions`` has the same files solved. Next: ../judges.py, which checks them."""
