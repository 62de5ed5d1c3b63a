"""Run the command line as `python -m vaert`."""

import sys

from vaert.cli import main

if __name__ == "__main__":
    sys.exit(main())
