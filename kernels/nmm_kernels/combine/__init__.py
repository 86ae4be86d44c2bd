"""Expert rows back to tokens, weighted by the router's probabilities."""
