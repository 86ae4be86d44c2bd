"""The vision encoder and its connector: what stands between patches and decoder above depth 0."""
