"""From raw corpora to packed batches."""
