"""A tag for each word: names, places, parts of speech."""
