"""Run as a script: becomes the command in its arguments, as the job of a cluster.

It gets SIGTERM when the process that started it dies, so that a job that is started again is not running twice; and it
ignores the signals by which a scheduler tells all processes of a job that its time is over, of which the one that
started it makes a SIGTERM.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """See the module."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Linux alone has it, as clusters do.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command of the job


if __name__ == "__main__":
    main()
