"""Texts with labels: classes, several labels, a number."""
