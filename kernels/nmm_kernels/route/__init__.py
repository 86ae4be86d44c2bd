"""Router scores to chosen experts: score, top-k and per-expert counts in one pass."""
