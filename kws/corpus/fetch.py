"""Downloads the archive of a known corpus to DIR/.fetch and checks it. The next call resumes an interrupted download.

    recipe, address -> DIR/.fetch/ARCHIVE.part, and .json: its address, version and size
                    -> size and sha256 compared with the recipe -> DIR/.fetch/ARCHIVE

An archive on this machine is checked in its place. DIR/.fetch exists until the corpus in DIR is packed.
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

from kws import errors, files, transport
from kws.corpus.recipe import Recipe
from kws.errors import UsageError, cannot_write

SCRATCH = ".fetch"
Say = Callable[[str], None]
Progress = Callable[[int, int | None, str], None]
"""Called with (bytes done, bytes in all, stage)."""
_CLIP_BYTES = 34_304
"""Size of a clip of one second in a shard: 16,000 samples of two bytes, and the overhead of tar, WAV and label."""


def fetch_archive(
    recipe: Recipe,
    address: str,
    out: Path,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total, stage: None,
    retry_policy: transport.RetryPolicy = transport.RetryPolicy(),  # noqa: B008 (frozen)
) -> Path:
    """Path of the recipe's archive, complete and checked: `address` itself if it is a path or file://, else below
    `out`.

    `say` is called with a line for the plan and for each fault. Raises UsageError where the archive differs from the
    recipe, the address has no archive, or the disk is full. The downloaded part is then kept for the next call.
    """
    local, target = _local_path(address), out / SCRATCH / recipe.archive_name(address)
    try:
        out.joinpath(SCRATCH).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(cannot_write(out, error, "give another folder")) from error
    if local is not None:
        say(f"{recipe.name}: from {local}, which is left as it is; {_disk_use(recipe, out, 0)}")
        recipe.check_archive(local, progress)
        return local
    if target.exists():
        say(f"{recipe.name}: {target} is downloaded already; {_disk_use(recipe, out, 0)}")
        return target
    part = target.with_name(f"{target.name}.part")
    with errors.filename_in_error(part), part.open("ab") as file:
        _lock(file, out)
        _download(_PartialArchive(file, part, recipe, address, say, progress), address, out, retry_policy)
        file.flush()
        try:
            recipe.check_archive(part, progress)
        except UsageError as error:
            _remove(part)
            raise UsageError(f"{error}, or from another address with --url; the download is removed") from error
        part.replace(target)
        _remove(part)
    return target


def is_unfinished(out: Path) -> bool:
    """Whether a fetch into `out` was started and did not finish."""
    return (out / SCRATCH).is_dir()


def finish(recipe: Recipe, out: Path, keep: bool) -> None:
    """Ends a fetch: removes the downloaded archive, or moves it to `out` if `keep`."""
    for path in (out / SCRATCH).glob("*"):
        if keep and path.suffix not in (".part", ".json", ".partial"):
            path.replace(out / path.name)
    shutil.rmtree(out / SCRATCH, ignore_errors=True)
    with contextlib.suppress(OSError):
        (out / ".packing").rmdir()  # an empty one, left by a packing that was killed while removing it


def _local_path(address: str) -> Path | None:
    """The file that an address names; None for http(s). Raises UsageError for any other address."""
    scheme, _, rest = address.partition("://")
    try:
        parts = urlsplit(address)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # wrong brackets or port
        raise UsageError(f"--url {address}: {error}; wanted an address such as https://host/archive.tar.gz") from error
    if scheme in ("http", "https"):
        if not is_whole:
            raise UsageError(f"--url {address}: no host; wanted an address such as https://host/archive.tar.gz")
        return None
    if rest and scheme != "file":
        raise UsageError(f"--url {address}: wanted http://, https://, file:// or the path of an archive")
    path = Path(unquote(parts.path)) if rest else Path(address)
    if not path.is_file():
        raise UsageError(f"--url {address}: no such file; wanted the archive, or its address with http(s)://")
    return path


def _disk_use(recipe: Recipe, out: Path, missing: int) -> str:
    """How much disk fetching and packing take, as text. Raises UsageError where the `missing` bytes of the archive do
    not fit."""
    free = shutil.disk_usage(out).free
    if missing > free:
        raise UsageError(f"{out}: {decimal(missing)} are to be downloaded, {decimal(free)} are free; make room there")
    shards = sum(recipe.clips.values()) * _CLIP_BYTES
    # While packing, all clips are also in a scratch file, from which they are written in shuffled order.
    return (
        f"the shards take about {decimal(shards)} in {out}, making them up to {decimal(missing + 2 * shards)} "
        f"({decimal(free)} are free)"
    )


def _lock(file: BinaryIO, out: Path) -> None:
    """Keeps a second fetch out of the folder, until the file is closed. Raises UsageError where one is running."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"{out}: in use by another kws fetch; wait until it has finished, or give another folder"
        ) from error


def _metadata_file(part: Path) -> Path:
    return part.with_suffix(".json")


def _remove(part: Path) -> None:
    for path in (part, _metadata_file(part)):
        path.unlink(missing_ok=True)


class _PartialArchive(transport.DownloadTarget):
    """The downloaded part of an archive, over several calls: ARCHIVE.part, and beside it what it is a part of.

    It is discarded where it is from another address, or where the archive may have changed since.
    """

    def __init__(self, file: BinaryIO, path: Path, recipe: Recipe, address: str, say: Say, progress: Progress) -> None:
        super().__init__(file, recipe.bytes, str(recipe.path))
        self.path, self.recipe, self.say, self._progress = path, recipe, say, progress
        self._address, self.bytes = transport.redacted_url(address), os.fstat(file.fileno()).st_size
        known = self._read_metadata() if self.bytes else {}
        self.version, self.total = str(known.get("version", "")), known.get("bytes", recipe.bytes)
        if self.bytes and (known.get("address") != self._address or not (self.version or recipe.sha256)):
            self.start_over("the downloaded part is from another address, or the archive may have changed")

    @property
    def is_complete(self) -> bool:
        """Whether everything is downloaded, and only the check is missing."""
        return self.bytes > 0 and self.bytes == self.total

    def start_over(self, why: str) -> None:
        self.say(f"{why}: starting from the beginning")
        self.restart()

    def receive(self, response: transport.Response) -> None:
        is_changed = response.version != self.version
        if response.start and is_changed:
            raise transport.ChangedError("the archive there has changed")
        if self.bytes and not response.start:
            self.start_over("the archive there has changed" if is_changed else "the server cannot resume a download")
        self.version, self.total = response.version, response.size
        known = {"address": self._address, "version": self.version, "bytes": self.total}
        files.write_text(_metadata_file(self.path), json.dumps(known))
        super().receive(response)

    def write(self, chunk: memoryview) -> None:
        super().write(chunk)
        self._progress(self.bytes, self.total, "fetching")

    def _read_metadata(self) -> dict[str, Any]:
        try:
            return dict(json.loads(_metadata_file(self.path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # missing or damaged
            return {}


def _download(part: _PartialArchive, address: str, out: Path, retry_policy: transport.RetryPolicy) -> None:
    """Downloads everything that is missing of the archive. Raises UsageError."""
    shown = transport.redacted_url(address)
    size = "its archive" if part.total is None else decimal(part.total)
    resumed = f", of which {decimal(part.bytes)} are downloaded already" if part.bytes else ""
    disk = _disk_use(part.recipe, out, max(0, (part.total or 0) - part.bytes))
    part.say(f"{part.recipe.name}: {size} from {shown}{resumed}; {disk}")

    def wait(delay_s: float, reason: str) -> None:
        part.say(f"{reason}; resuming from {decimal(part.bytes)} in {delay_s:g} s")
        time.sleep(delay_s)

    def download() -> None:
        transport.download(
            lambda offset: transport.open_http(address, offset, retry_policy.timeout_s, part.version),
            part, retry_policy.delays_s, wait,
        )  # fmt: skip

    try:
        if not part.is_complete:
            _download_or_start_over(part, download)
    except transport.UnreachableError as error:
        kept = (
            f"{decimal(part.bytes)} are kept in {part.path}: run the same command again to resume"
            if part.bytes
            else "try again"
        )
        raise UsageError(f"{shown}: {error}; {kept}, or give another address with --url") from error
    except transport.ChangedError as error:
        _remove(part.path)
        raise UsageError(f"{shown}: {error}; the download is removed; give another address with --url") from error


def _download_or_start_over(part: _PartialArchive, download: Callable[[], None]) -> None:
    """Downloads; once more from the beginning where the archive has changed since the download was started."""
    try:
        download()
    except transport.ChangedError as error:
        if not part.bytes:
            raise
        part.start_over(str(error))
        download()
