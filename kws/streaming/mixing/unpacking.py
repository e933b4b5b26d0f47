"""Unpacks the recordings of an archive of background sound, once: mixing reads parts of them in random order, which a
compressed tar does not allow.

    archive (tar, also gz, bz2, xz, zst; zip) -> members that are used -> FOLDER.partial -> renamed to FOLDER when whole

Of a known corpus (kws/streaming/mixing/known_layouts.py) only what is used is written: one channel of 35 of DiPCo.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from kws import files
from kws.audio import formats
from kws.corpus import archives, label_track
from kws.errors import UsageError, unreadable
from kws.streaming.mixing.known_layouts import LAYOUTS, layout_of

_ABOUT = ".archive.json"
"""File in the folder: name and size of the archive that it was unpacked from."""


def unpack(archive: Path, folder: Path, progress: Callable[[int], None] = lambda files: None) -> bool:
    """Writes the members that are used to `folder`, under their names. Returns False where they were there before.

    progress: called with the number of recordings written. Raises UsageError where the archive is damaged or has no
    audio, and where `folder` has other contents.
    """
    about = {"archive": archive.name, "bytes": archive.stat().st_size}
    if folder.exists():
        if _about(folder) == about:
            return False
        raise UsageError(
            f"{folder}: is not what {archive} was unpacked to; remove it, or give another folder with --unpacked"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    count = 0
    for file in archives.read(archive):
        if file.is_regular and is_used(file.name):
            _write(partial, archive, file)
            count += _is_audio(file.name)
            progress(count)
    if not count:
        shutil.rmtree(partial)
        raise UsageError(f"{archive}: no audio in it; wanted recordings of background sound")
    files.write_json(partial / _ABOUT, about)
    partial.rename(folder)
    return True


def is_used(name: str) -> bool:
    """Whether a member is unpacked: a recording that is used, a label track, or a transcript, a list or a licence."""
    if PurePosixPath(name).name.startswith("._"):  # macOS's metadata beside a file
        return False
    layout = layout_of(name)
    if layout:
        return layout.used.search(name) is not None
    is_track = PurePosixPath(name).suffix.lower() in (".txt", label_track.PRAAT.lower())
    return _is_audio(name) or is_track or any(layout.others.search(name) for layout in LAYOUTS)


def _is_audio(name: str) -> bool:
    return formats.is_named_as_audio(name)


def _write(folder: Path, archive: Path, file: archives.SourceFile) -> None:
    parts = PurePosixPath(file.name).parts
    if ".." in parts or PurePosixPath(file.name).is_absolute():
        raise UsageError(f"{archive}: has a file that would be written outside of its folder: {file.name!r}")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.read())


def _about(folder: Path) -> object:
    try:
        return json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise unreadable(error, folder / _ABOUT) from error
