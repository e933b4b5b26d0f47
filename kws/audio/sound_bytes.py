"""Which bytes of a file a decoder should be given, and the same as bytes or as an open file."""

from __future__ import annotations

import dataclasses
import io
from typing import IO, Protocol


class Sliceable(Protocol):
    """bytes, or a FileBytes."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class FileBytes:
    """The bytes of an open file, read only where they are sliced (with a start and an end)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, file.seek(0, io.SEEK_END)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, end, _ = part.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, end - start))


@dataclasses.dataclass(frozen=True)
class Sound:
    """What to give to a decoder: `head`, then the file's bytes from `start` to `end`.

    missing: what is missing at the end of the file, "" for nothing. remarks: see kws.audio.remarks.
    """

    head: bytes
    start: int
    end: int
    missing: str = ""
    remarks: tuple[str, ...] = ()

    def is_all_of(self, data: Sliceable) -> bool:
        """Whether that is the file as it is."""
        return not self.head and self.start == 0 and self.end == len(data)

    def bytes_of(self, data: bytes) -> bytes:
        """The bytes to be decoded."""
        return data if self.is_all_of(data) else self.head + data[self.start : self.end]

    def file_of(self, file: IO[bytes]) -> IO[bytes]:
        """The same as an open file, of which only what is wanted is read."""
        if not self.head and self.start == 0:
            file.seek(0)
            return file
        return io.BufferedReader(_Spliced(self, file))


class _Spliced(io.RawIOBase):
    """A Sound as a file."""

    def __init__(self, sound: Sound, file: IO[bytes]) -> None:
        self._sound, self._file, self._at = sound, file, 0
        self._size = len(sound.head) + sound.end - sound.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer, /) -> int:  # type: ignore[no-untyped-def]
        head, wanted = self._sound.head, min(len(buffer), self._size - self._at)
        if self._at < len(head):
            data = head[self._at : self._at + wanted]
        else:
            self._file.seek(self._sound.start + self._at - len(head))
            data = self._file.read(max(0, wanted))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
