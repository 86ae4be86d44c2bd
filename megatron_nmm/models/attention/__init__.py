"""Attention over packed documents with causal text and bidirectional images: one call, two backends."""
