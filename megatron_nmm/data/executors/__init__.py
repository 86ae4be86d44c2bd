"""Where the shards of a corpus are written: processes of this machine, or a Ray cluster."""
