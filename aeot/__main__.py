"""``python -m aeot`` is the ``aeot`` command."""

import sys

from aeot.cli import main

if __name__ == "__main__":
    sys.exit(main())
