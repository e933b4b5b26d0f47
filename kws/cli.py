"""The `kws` command: parses the arguments, calls the command's function, and turns errors into exit codes.

0 success; 1 failure, also when inputs were left out; 2 usage or environment error, with a message about how to fix
it; 75 stopped and saved, the same command resumes; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

from kws.commands import config_files, corpus, doctor, listen, mix, runs, settings_list, spotting, streams
from kws.commands.arguments import make_parser
from kws.commands.terminal import FAILED, INTERRUPTED, OK, STOPPED, USAGE, ended_by_signals
from kws.errors import PeerError, RankError, StoppedError, UsageError, user_message


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. `argv`: its arguments; None: those of this process."""
    if argv is None:
        streams.use_utf8()
    with streams.standard_streams(lasting=False):
        arguments = make_parser().parse_args(argv)
    # A run must not be lost because nobody reads its output any more.
    is_training = arguments.command == "train"
    with streams.standard_streams(lasting=is_training), nullcontext() if is_training else ended_by_signals():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Carries out the command; turns errors into a line and an exit code."""
    try:
        code = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except UsageError as error:
        if _should_print(error):
            print(f"kws: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # a subclass of OSError, so it comes first
        return OK  # `kws inspect ... | head` is not a failure
    except PeerError as error:
        if str(error):
            print(f"kws: {error}; see its output, then run the same command again to resume", file=sys.stderr)
        return FAILED
    except (OSError, RuntimeError, MemoryError) as error:
        line = user_message(error)  # printed by each rank that meets it
        if line is None:
            raise
        print(f"kws: {_rank()}{line}", file=sys.stderr)
        return USAGE
    except StoppedError as error:
        print(f"kws: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _rank() -> str:
    """`rank 3 on node2: ` where there are several ranks, for an error that one of them meets."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ""
    return f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}: "


def _should_print(error: UsageError) -> bool:
    """Whether this process prints the error: rank 0 for errors that all ranks meet, the rank itself for a RankError."""
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
    "mix": mix.mix,
    "train": runs.train,
    "evaluate": runs.evaluate,
    "compare": runs.compare,
    "predict": runs.predict,
    "listen": listen.listen,
    "spot": spotting.spot,
    "report": runs.report,
    "models": runs.models,
    "configs": config_files.configs,
    "settings": settings_list.settings,
    "launch": runs.launch,
    "doctor": doctor.doctor,
}
