"""``python -m aeot`` is the ``aeot`` command."""

import contextlib
import os
import sys

from aeot.cli import main


def run() -> None:
    """Run the command line, and end the process with its status."""
    status = main()
    if status > 128:  # stopped by a signal: torch takes seconds to go, and SIGKILL may come next
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
