"""A study as pictures and one page."""
