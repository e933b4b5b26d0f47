"""What is shown to a person as a line instead of a traceback."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

# A disk that is full or may not be written: nothing that a traceback would explain.
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class UsageError(ValueError):
    """What the user can mend: the message says where, found, wanted and what to type.

    `kws` prints the message alone (rank 0 only) and exits with code 2.
    """


class RankError(UsageError):
    """A UsageError that one rank met alone, such as a damaged shard it reads: that rank prints it."""


class PeerError(RuntimeError):
    """Another process of the run is gone, hangs or failed. Empty where another rank says so."""


class StoppedError(Exception):
    """Ended by a signal, with all kept that was done: `kws` prints the message and exits with code 75."""


def all_mistakes(lines: Sequence[str], most: int = 10) -> UsageError:
    """The mistakes of a file as one error, a line each; those beyond `most` are counted."""
    more = [f"and {len(lines) - most} more mistakes"] if len(lines) > most else []
    return UsageError("\n".join([*lines[:most], *more]))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around writing to an open file: the system's error does not say which."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def user_message(error: BaseException) -> str | None:
    """The line for a UsageError, or for an OSError of a full or protected disk; None for what is a failure of kws."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _REFUSED:
        where = error.filename or "a file"
        return f"{where}: {error.strerror}; make room there or mend the rights, then run the same again"
    return None
