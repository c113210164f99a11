"""Answers that stand in a text: where a question's answer begins in it, and where it ends."""
