"""A file for each exercise, as a student gets it; ``solutions`` has them solved. Next: ../judges.py, which checks them."""
