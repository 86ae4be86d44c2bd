"""Chosen experts to row numbers: where each (token, choice) goes in expert order."""
