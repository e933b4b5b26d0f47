"""A known corpus' archive, from its address to DIR/.fetch: whole, checked; what broke off goes on with the next call.

    recipe, address -> DIR/.fetch/ARCHIVE.part, and .json: of what it is a part
                    -> size and sha256 as in the recipe -> DIR/.fetch/ARCHIVE

An archive on this machine is checked where it lies. DIR/.fetch is there for as long as the corpus in DIR is unfinished.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from rich.filesize import decimal

from kws import errors, transport
from kws.corpus.recipe import Recipe
from kws.errors import UsageError

SCRATCH = ".fetch"
Say = Callable[[str], None]
Progress = Callable[[int, int | None, str], None]
"""Called with (bytes done, in all, what is being done)."""
_CLIP_BYTES = 34_304
"""Of a second in a shard: 16,000 samples of two bytes, and what tar and WAV have around them."""


def archive(
    recipe: Recipe,
    address: str,
    out: Path,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total, what: None,
    patience: transport.RetryPolicy = transport.RetryPolicy(),  # noqa: B008 (frozen)
) -> Path:
    """The recipe's archive as a whole, checked file: `address` itself where it is a path or file://, else below `out`.

    Says what it will do and what goes wrong on the way. Raises UsageError for what the caller can mend: bytes other
    than the recipe's, an address where nothing is, no room. What has come of a download then stays for the next call.
    """
    local, place = _local(address), out / SCRATCH / recipe.archive(address)
    try:
        out.joinpath(SCRATCH).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); give another folder") from error
    if local is not None:
        say(f"{recipe.name}: from {local}, which stays where it is; {_room(recipe, out, 0)}")
        recipe.check_archive(local, progress)
    elif place.exists():
        say(f"{recipe.name}: {place} is here already; {_room(recipe, out, 0)}")
    else:
        part = place.with_name(f"{place.name}.part")
        with errors.filename_in_error(part), part.open("ab") as file:
            _take_alone(file, out)
            _fill(_Part(file, part, recipe, address, say, progress), address, out, patience)
            file.flush()
            try:
                recipe.check_archive(part, progress)
            except UsageError as error:
                _remove(part)
                raise UsageError(f"{error}, or from another address with --url: what came is removed") from error
            part.replace(place)
            _remove(part)
    return place if local is None else local


def is_unfinished(out: Path) -> bool:
    """Whether a fetch into `out` was begun and not brought to its end."""
    return (out / SCRATCH).is_dir()


def finish(recipe: Recipe, out: Path, keep: bool) -> None:
    """Removes the archive that was fetched, or moves it to `out`."""
    for path in (out / SCRATCH).glob("*"):
        if keep and path.suffix not in (".part", ".json"):
            path.replace(out / path.name)
    shutil.rmtree(out / SCRATCH, ignore_errors=True)
    with contextlib.suppress(OSError):
        (out / ".packing").rmdir()  # empty: of a packing that was killed as it removed it


def _local(address: str) -> Path | None:
    """The file that an address means; None for http(s). Raises UsageError for what is neither."""
    scheme, _, rest = address.partition("://")
    try:
        parts = urlsplit(address)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # of brackets, or a port that is none
        raise UsageError(f"--url {address}: {error}; wanted an address such as https://host/archive.tar.gz") from error
    if scheme in ("http", "https"):
        if not is_whole:
            raise UsageError(f"--url {address}: no host in it; wanted an address such as https://host/archive.tar.gz")
        return None
    if rest and scheme != "file":
        raise UsageError(f"--url {address}: wanted http://, https://, file:// or the path of an archive")
    path = Path(unquote(parts.path)) if rest else Path(address)
    if not path.is_file():
        raise UsageError(f"--url {address}: no such file; wanted the archive, or its address with http(s)://")
    return path


def _room(recipe: Recipe, out: Path, missing: int) -> str:
    """How much disk it takes. Raises UsageError where not even what is `missing` of the archive has room."""
    free = shutil.disk_usage(out).free
    if missing > free:
        raise UsageError(f"{out}: {decimal(missing)} are to come, {decimal(free)} are free; make room there")
    shards = sum(recipe.clips.values()) * _CLIP_BYTES
    # Packing has all clips once more in its scratch file, to write them in shuffled order.
    return (
        f"about {decimal(shards)} of shards go to {out}, {decimal(missing + 2 * shards)} of disk on the way "
        f"({decimal(free)} are free)"
    )


def _take_alone(file: BinaryIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{out}: another kws fetch is at work there; wait for it, or give another folder") from error


def _about(part: Path) -> Path:
    return part.with_suffix(".json")


def _remove(part: Path) -> None:
    for path in (part, _about(part)):
        path.unlink(missing_ok=True)


class _Part(transport.Target):
    """What has come so far, over several calls: DIR/.fetch/ARCHIVE.part, and what it is a part of beside it."""

    def __init__(self, file: BinaryIO, path: Path, recipe: Recipe, address: str, say: Say, progress: Progress) -> None:
        super().__init__(file, recipe.bytes, str(recipe.path))
        self.path, self.recipe, self.say, self._progress = path, recipe, say, progress
        self._address, self.bytes = transport.shown(address), os.fstat(file.fileno()).st_size
        known = self._remembered() if self.bytes else {}
        self.version, self.total = str(known.get("version", "")), known.get("bytes", recipe.bytes)
        if self.bytes and (known.get("address") != self._address or not (self.version or recipe.sha256)):
            self.start_anew("what is there came from another address, or cannot be told from a changed archive")

    @property
    def whole(self) -> bool:
        """Whether all has come, and only the check is missing."""
        return self.bytes > 0 and self.bytes == self.total

    def start_anew(self, why: str) -> None:
        self.say(f"{why}: from the start")
        self.restart()

    def take(self, opened: transport.Opened) -> None:
        changed = opened.version != self.version
        if opened.start and changed:
            raise transport.ChangedError("the archive there is another one by now")
        if self.bytes and not opened.start:
            why = "the archive there is another one by now" if changed else "the server cannot go on in the middle"
            self.start_anew(why)
        self.version, self.total = opened.version, opened.size
        known = {"address": self._address, "version": self.version, "bytes": self.total}
        _about(self.path).write_text(json.dumps(known), encoding="utf-8")
        super().take(opened)

    def write(self, chunk: memoryview) -> None:
        super().write(chunk)
        self._progress(self.bytes, self.total, "fetching")

    def _remembered(self) -> dict[str, Any]:
        try:
            return dict(json.loads(_about(self.path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none, or broken off with it
            return {}


def _fill(part: _Part, address: str, out: Path, patience: transport.RetryPolicy) -> None:
    """All that is missing of the archive. Raises UsageError."""
    shown = transport.shown(address)
    size = "its archive" if part.total is None else decimal(part.total)
    begun = f", {decimal(part.bytes)} of which are here" if part.bytes else ""
    room = _room(part.recipe, out, max(0, (part.total or 0) - part.bytes))
    part.say(f"{part.recipe.name}: {size} from {shown}{begun}; {room}")

    def wait(delay_s: float, fault: str) -> None:
        part.say(f"{fault}; again from {decimal(part.bytes)} in {delay_s:g} s")
        time.sleep(delay_s)

    def download() -> None:
        transport.download(
            lambda offset: transport.open_http(address, offset, patience.timeout_s, part.version),
            part, patience.delays_s, wait,
        )  # fmt: skip

    try:
        if not part.whole:
            _twice(part, download)
    except transport.UnreachableError as error:
        kept = f"{decimal(part.bytes)} are kept in {part.path}: run the same again" if part.bytes else "try again"
        raise UsageError(f"{shown}: {error}; {kept}, or give another address with --url") from error
    except transport.ChangedError as error:
        _remove(part.path)
        raise UsageError(f"{shown}: {error}; what came is removed: give another address with --url") from error


def _twice(part: _Part, download: Callable[[], None]) -> None:
    """What has changed since it was begun comes once more from the start."""
    try:
        download()
    except transport.ChangedError as error:
        if not part.bytes:
            raise
        part.start_anew(str(error))
        download()
