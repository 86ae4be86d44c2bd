"""One writer per folder: a lock that the system drops by itself when its holder dies, however it dies."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from megatron_nmm.errors import NMMError

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderInUse(NMMError):
    """Another process writes into the folder; names it."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only writer of ``folder`` inside the block; the folder is created when missing.

    Raises FolderInUse at once, naming the other process, when somebody else holds it. A file system that has no locks
    (some cluster file systems are mounted so) lets everybody in: the lock guards against a mistake, and what is written
    under it still appears whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise FolderInUse(
                f"{folder} is in use by {stream.read().strip() or 'another process'}; two processes cannot write into "
                "one folder: wait for that one or stop it, or use another folder (--set folder=... of a run, --output "
                "of a tool)"
            ) from None
        except OSError as fault:
            if fault.errno not in UNSUPPORTED:
                raise
        with suppress(OSError):  # the name is a courtesy to the next process; on a full disk the lock holds without it
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
