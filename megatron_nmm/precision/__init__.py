"""Matrix products in 8 bits: which layers compute them, and their numbers on any device through torch's casts."""
