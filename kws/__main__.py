"""Makes `python -m kws` and `accelerate launch -m kws` the same as the `kws` command."""

import sys

from kws.cli import main

if __name__ == "__main__":
    sys.exit(main())
