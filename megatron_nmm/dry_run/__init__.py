"""A cluster job on a laptop: any rank's groups, shard and whole training step, on tensors without data."""
