"""Token rows to expert order as 8-bit floats with a scale for every 128 values."""
