"""Token rows to expert order, and the way back for gradients."""
