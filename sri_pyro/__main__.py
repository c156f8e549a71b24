"""``python -m sri_pyro``: the command line."""

import sys

from sri_pyro.cli import main

if __name__ == "__main__":
    sys.exit(main())
