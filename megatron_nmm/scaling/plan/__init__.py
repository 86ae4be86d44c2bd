"""Which model to train next, from a fit or from the papers' coefficients."""
