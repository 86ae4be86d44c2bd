"""A study's runs: expanded from a design, trained from trunks that branches share, kept as points."""
