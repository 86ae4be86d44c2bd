"""What a machine has, what it lacks, whether the parts fit together, and whether its collectives work."""
