"""How a process says why it does not go on: one message, exit code 2, and no traceback of ours."""

import contextlib
import json
import os
import sys
import time

from megatron_nmm.errors import NMMError

FAULTY = 2
"""Exit code of a command that was given something it cannot use."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, the one a shell gives."""
TAKEN_BACK = 75
"""Exit code of a run that saved because its machine is taken back: queue it again (sysexits.h: a temporary failure)."""
PATIENCE_S = 10.0
"""Longest that a process which leaves the speaking to another one waits to be ended by torchrun."""


def refuse(error: NMMError, *, speaks: bool = True) -> int:
    """Print ``error`` on stderr and return the exit code. Of processes with the same error, one ``speaks``.

    torchrun answers the first exit of a process by ending the others and with a long report. So the silent ones give
    the speaking one time to be the first, and it leaves its message in the file that torchrun names: from there it
    comes into the last lines of the report and is the last thing a user reads, too.
    """
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not speaks:
        time.sleep(PATIENCE_S if report else 0.0)
        return FAULTY
    print(f"error: {error}", file=sys.stderr, flush=True)
    if report:
        told = {"message": str(error), "extraInfo": {"py_callstack": str(error), "timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError), open(report, "w", encoding="utf-8") as file:
            json.dump({"message": told}, file)
    return FAULTY
