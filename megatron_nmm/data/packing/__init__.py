"""Packs samples into rows under two limits, tokens and patches, close to the fewest rows that any packing needs.

``limits`` says what goes in and comes out, ``pool`` holds what is left to pack, ``fill`` chooses the samples of one
pack, ``bulk`` repeats that over the whole, ``bounds`` proves how many packs no packing can do without.
"""

from megatron_nmm.data.packing.bounds import lower_bound, proved_bound
from megatron_nmm.data.packing.bulk import pack
from megatron_nmm.data.packing.limits import Bins, Limits, Sizes

__all__ = ["Bins", "Limits", "Sizes", "lower_bound", "pack", "proved_bound"]
