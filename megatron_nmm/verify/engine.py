"""Imports the engine when it is imported, and does nothing else: the fork server of multiprocessing takes modules only.

Nothing is computed here, so no thread runs that a fork would lose.
"""

from megatron_nmm.device import mcore_on_cpu, quiet
from megatron_nmm.verify import compare as compare

quiet.install()
mcore_on_cpu.import_engine()
