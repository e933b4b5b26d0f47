"""Exceptions that end a command with a one-line message instead of a traceback, and their exit codes (kws.cli).

UsageError      2   the user can fix it: bad setting, missing file, full disk
RankError       2   a UsageError that a single rank met
PeerError       1   another process of the run failed
StoppedError   75   stopped by a signal after saving; the same command resumes
"""

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""The disk is full or not writable: a traceback would explain nothing."""


class UsageError(ValueError):
    """An error that the user can fix. The message says where, what was found, what was wanted and what to type.

    `kws` prints the message alone (on rank 0 only) and exits with code 2.
    """


class RankError(UsageError):
    """A UsageError that only one rank met, such as a damaged shard that it reads. That rank prints the message."""


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
    """Returns the line to print for a UsageError or for an OSError of a full or write-protected disk.

    None for any other exception: that is a failure of kws itself and needs its traceback.
    """
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        where = error.filename or "a file"
        return f"{where}: {error.strerror}; free space or fix the permissions, then run the same command again"
    return None
