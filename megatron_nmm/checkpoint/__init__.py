"""Saving, verifying and resuming training state."""
