"""Which of two answers is the better one: a model that scores answers, and one that is to give the better ones."""
