"""Where an inference process begins: settles where it runs, before anything large is imported, and goes on.

Run as a file, by `_process.py`; never imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read what the parent says, in the first argument as JSON, and serve it."""
    boot = json.loads(sys.argv[1])
    # Ctrl-C, a service manager's SIGTERM and the end of the terminal reach both processes; the parent decides what
    # they mean.  Not SIG_IGN, which programs that the policy starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with suppress(OSError, AttributeError):  # a policy that hangs reads no end of a stream
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != boot["parent"]:  # it has ended already
        os._exit(0)
    # Threads that are made later, by numpy for one, inherit both.
    os.sched_setaffinity(0, boot["cpus"])
    if boot["nice"]:
        os.nice(boot["nice"])
    sys.path[:] = boot["path"]
    from chunkwise.workers import _child

    _child.main(boot)


if __name__ == "__main__":
    main()
