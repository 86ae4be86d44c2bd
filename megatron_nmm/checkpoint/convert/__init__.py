"""Checkpoints to Hugging Face folders and back, in one process, one tensor at a time."""
