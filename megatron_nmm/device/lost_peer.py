"""How the collectives of each device say that another rank is gone or late: their errors carry no type of their own."""

import re

LATE = re.compile(r"timed? ?out", re.IGNORECASE)
GONE = re.compile(
    r"connection (closed|reset|refused)|broken pipe|connection was|remote process exited|connect(ion)? failure"
    r"|peer|socket|recv(Bytes|Value)? failed|NCCL (error|communicator was aborted)",
    re.IGNORECASE,
)
NOISE = re.compile(r"^\[[^\]]*\] *")
"""Where in the library's source the error arose."""


def lost_peer(error: BaseException) -> str | None:
    """The first sentence of ``error`` when it says that a collective met no answer; None for any other error."""
    if not isinstance(error, RuntimeError):
        return None
    line = NOISE.sub("", str(error).strip().partition("\n")[0]).partition(". ")[0]
    return line if LATE.search(line) or GONE.search(line) else None


def is_late(cause: str) -> bool:
    """Whether ``cause``, as of ``lost_peer``, is a time limit that passed, and not a connection that broke."""
    return LATE.search(cause) is not None
