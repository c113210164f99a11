"""Settings that know themselves, and the parser that fills them. No torch in here."""
