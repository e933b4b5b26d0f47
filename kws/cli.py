"""The `kws` command: parse, load, call one function, turn what happened into an exit code.

0 done; 2 something the user can mend, one line; 1 a failure, also when inputs were skipped; 75 stopped and saved.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from kws.commands import corpus, runs
from kws.commands.arguments import parser
from kws.commands.terminal import FAILED, INTERRUPTED, OK, STOPPED, USAGE
from kws.errors import PeerError, RankError, StoppedError, UsageError, user_message


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be anything
    try:
        code = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except UsageError as error:
        if _speaks(error):
            print(f"kws: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # before OSError, which it is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED if arguments.command == "train" else OK  # `kws inspect ... | head` is no failure
    except OSError as error:
        line = user_message(error)
        if line is None:
            raise
        print(f"kws: {line}", file=sys.stderr)
        return USAGE
    except PeerError as error:
        if str(error):
            print(f"kws: {error}; see what it said, then run the same again", file=sys.stderr)
        return FAILED
    except StoppedError as error:
        print(f"kws: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _speaks(error: UsageError) -> bool:
    """All ranks meet the same mistake, and rank 0 says it; what one rank met alone, that rank says."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return rank == "0" or isinstance(error, RankError)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "synth": corpus.synth,
    "fetch": corpus.fetch,
    "record": corpus.record,
    "pack": corpus.pack,
    "index": corpus.index,
    "inspect": corpus.inspect,
    "verify": corpus.verify,
    "train": runs.train,
    "evaluate": runs.evaluate,
    "compare": runs.compare,
    "predict": runs.predict,
    "report": runs.report,
    "models": runs.models,
    "launch": runs.launch,
}
