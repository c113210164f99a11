"""Toy models, data, ranks and a stand-in for the Hub, on which bench and tests stand."""
