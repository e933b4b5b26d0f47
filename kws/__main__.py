"""Makes `python -m kws` and `accelerate launch -m kws` the same as the `kws` command."""

import os
import sys
from pathlib import Path

import kws


def _without_current_folder() -> None:
    """`python -m` looks for modules in the current folder first, where a user may have a random.py or a folder torch.
    It is needed only where kws itself is there."""
    first = Path(sys.path[0] or os.curdir).resolve() if sys.path and not sys.flags.safe_path else None
    if first == Path.cwd() and first != Path(kws.__file__).resolve().parents[1]:
        del sys.path[0]


if __name__ == "__main__":
    _without_current_folder()
    from kws.cli import main

    sys.exit(main())
