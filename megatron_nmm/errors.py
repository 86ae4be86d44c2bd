"""The three errors a user can meet; every message states the fact, the value and the remedy."""


class NMMError(Exception):
    """Base of the errors this package raises on purpose; the command line prints them without a traceback."""


class ConfigError(NMMError):
    """One or more faults of a run configuration, all listed at once, before any process group exists."""


class DataError(NMMError):
    """A fault of a corpus, a sample or an image; names the sample or the file."""


class CheckpointError(NMMError):
    """A checkpoint that cannot be written or read; says what is still intact."""
