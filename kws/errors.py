"""Exceptions that end a command with a one-line message instead of a traceback, and their exit codes (kws.cli).

UsageError      2   the user can fix it: bad setting, missing file, full disk
RankError       2   a UsageError that a single rank met
PeerError       1   another process of the run failed
StoppedError   75   stopped by a signal after saving; the same command resumes
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kws.system_errors import advice, system_message


class UsageError(ValueError):
    """An error that the user can fix. The message names where, what was found, what was wanted and what to type.

    `kws` prints the message alone (on rank 0 only) and exits with code 2.
    """


class RankError(UsageError):
    """A UsageError that only one rank met, such as a damaged shard that it reads. That rank prints the message."""


class UnreadableError(UsageError):
    """A file that exists cannot be read: no permission, or the disk, the file server or a limit refuses.

    Not the file's fault: the same command may succeed later, so nothing that is done is discarded.
    """


class PeerError(RuntimeError):
    """Another process of the run ended, failed or does not respond.

    The message is empty where another rank already prints the cause.
    """


class StoppedError(Exception):
    """Stopped by a signal with all finished work kept. `kws` prints the message and exits with code 75."""


def mistakes_error(lines: Sequence[str], most: int = 10) -> UsageError:
    """Returns one UsageError for all mistakes of a file, a line each; beyond the first `most` it only counts them."""
    more = [f"and {len(lines) - most} more mistakes"] if len(lines) > most else []
    return UsageError("\n".join([*lines[:most], *more]))


def close_names(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The names most similar to `name`, best first: those that begin with it, then those that differ in few letters."""
    names = list(known)
    begins = sorted((other for other in names if name and other.lower().startswith(name.lower())), key=len)
    return list(dict.fromkeys(begins + difflib.get_close_matches(name, names, n=most)))[:most]


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """`; did you mean A or B?`, to append to a message; "" where no name is similar."""
    near = close_names(name, known, most)
    return f"; did you mean {' or '.join(near)}?" if near else ""


@contextlib.contextmanager
def filename_in_error(path: Path) -> Iterator[None]:
    """Adds `path` to an OSError raised inside the with block: errors of write() and fsync() name no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def user_message(error: BaseException) -> str | None:
    """Returns the line to print for a UsageError, and for what the state of the machine explains: permissions, full
    disks, limits, memory (kws/system_errors.py).

    None for any other exception: that is a failure of kws itself and needs its traceback.
    """
    return str(error) if isinstance(error, UsageError) else system_message(error)


def unreadable(error: OSError, path: object = None, wanted: str = "check that it exists and may be read") -> UsageError:
    """The error of an input that cannot be read. `path`: where the OSError names no file; `wanted`: what to type where
    the OSError itself has no answer."""
    where = error.filename or path
    return UnreadableError(f"{where}: cannot be read ({error.strerror or error}); {advice(error) or wanted}")


def cannot_write(where: object, error: Exception, *more: str) -> str:
    """The line for an output that cannot be written: what refused, what to type, and `more`."""
    reason, fix = (error.strerror or error, advice(error)) if isinstance(error, OSError) else (error, "")
    return "; ".join(filter(None, (f"{where}: cannot be written ({reason})", fix, *more)))
