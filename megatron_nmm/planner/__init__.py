"""Which layout of a job to choose before there is a cluster: memory, traffic, bubble and time of every legal one.

Standard library and this package's tables only: neither torch nor megatron-core is loaded. Sizes are counted, times are
predictions from data sheets and stated efficiencies; nothing of the latter was measured here.
"""
