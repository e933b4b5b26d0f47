"""Parquet files as Hugging Face's datasets write them: audio as bytes (or a path, or samples), word and speaker.

    data/train-00000-of-00004.parquet: audio {bytes, path}, label (ClassLabel), speaker_id -> RawRow

Read in small batches: memory holds a batch, and what pyarrow keeps of a row group. Needs pyarrow (`kws[parquet]`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
import soundfile  # type: ignore[import-untyped]

from kws.corpus.tables import columns
from kws.corpus.tables.columns import Columns
from kws.corpus.tables.table import RawRow, Table
from kws.errors import UsageError

ENDING = ".parquet"
INSTALL = "pip install 'kws[parquet]'"
_BATCH_ROWS = 64
_SAMPLED_ROWS = 50
_LFS = b"version https://git-lfs"
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}


class _Audio(NamedTuple):
    """How a column holds audio: the paths of what is read of it, with its bytes and without."""

    full: list[str]
    light: list[str]
    kind: str


@dataclasses.dataclass
class ParquetTable(Table):
    """A Parquet file. Raises UsageError where it has no audio or no words, and without pyarrow."""

    kind: ClassVar[str] = "Parquet"
    is_strict: ClassVar[bool] = False

    def __post_init__(self) -> None:
        file, parquet = self._open()
        with file:
            schema = parquet.schema_arrow
            names = {name.lower(): name for name in schema.names}
            self._labels = _class_labels(schema)
            light = [name for name in schema.names if not _is_audio_type(schema.field(name).type)]
            sample = next(self._batches(parquet, light, _SAMPLED_ROWS), [])
            try:
                found = self._choose(
                    names, sample, {name.lower() for name in schema.names} - set(map(str.lower, light))
                )
            except ValueError as error:
                raise UsageError(f"{self.name}: {error}") from error
            self._columns = dataclasses.replace(
                found, **{field: names.get(name, "") for field, name in _named(found).items()}
            )
            self._audio = _audio_of(self._columns.audio, schema.field(self._columns.audio).type)
            self.num_rows = parquet.metadata.num_rows
            self._ending = self._find_ending(parquet)
        self.is_text = found.is_text
        self.notes.append(f"{self.name}: {self._columns.described or 'a Parquet file of recordings'}")

    def _choose(self, names: Mapping[str, str], sample: list[dict[str, Any]], holds_audio: set[str]) -> Columns:
        rows = [{key.lower(): self._text(key, value) for key, value in row.items()} for row in sample]
        found = columns.choose(list(names), rows)
        audio = next((name for name in columns.AUDIO if name in holds_audio), next(iter(holds_audio), ""))
        if found is None and audio:
            found = columns.choose(["path", *names], rows)
        if found is None:
            raise UsageError(
                f"{self.name}: found the columns {', '.join(names.values())}; wanted one with audio (bytes or "
                "paths) and one with words, named label, word or text"
            )
        return dataclasses.replace(found, audio=audio) if audio else found

    def raw_rows(self, with_audio: bool = True) -> Iterator[RawRow]:
        """All rows, numbered from 1. Raises UsageError for a damaged file."""
        found, audio = self._columns, self._audio
        keys = [found.word, found.speaker, found.split, found.start, found.end, found.duration]
        file, parquet = self._open()
        with file:
            wanted = (audio.full if with_audio else audio.light) + [key for key in keys if key]
            number = 0
            for rows in self._batches(parquet, wanted, _BATCH_ROWS):
                for row in rows:
                    number += 1
                    values = [self._text(key, row.get(key)) if key else "" for key in keys]
                    path, data = self._audio_of_row(row.get(found.audio), number, with_audio)
                    yield RawRow(number, path, *values, data=data)  # type: ignore[misc, arg-type]

    def _audio_of_row(self, value: Any, number: int, with_audio: bool) -> tuple[str, bytes | None]:
        """Name and bytes of a row's audio; the path and None for audio in a file. Without the audio the bytes are
        empty."""
        generic = f"{posixpath.splitext(posixpath.basename(self.path))[0]}-{number:08d}{self._ending}"
        if self._audio.kind == "path":
            return str(value or ""), None
        if self._audio.kind == "paths":
            return str((value or {}).get("path") or ""), None
        if self._audio.kind == "bytes":
            return generic, bytes(value or b"")
        path = (value or {}).get("path") or generic
        name = path if posixpath.splitext(path)[1] else f"{path}{self._ending}"
        if self._audio.kind == "samples":
            return name, _wav(value["array"], value["sampling_rate"]) if with_audio and value else b""
        return name, bytes((value or {}).get("bytes") or b"")

    def _text(self, key: str, value: Any) -> str:
        """The value as text; the name of a ClassLabel."""
        names = self._labels.get(key)
        if names and isinstance(value, int):
            return names[value] if 0 <= value < len(names) else str(value)
        return "" if value is None else str(value).strip()

    def _find_ending(self, parquet: Any) -> str:
        """The ending of the names of recordings without one, from the first recording's bytes. A table whose first
        recording has a path and no bytes names files."""
        if self._audio.kind not in ("bytes", "struct"):
            return ".wav"
        first = next(iter(next(self._batches(parquet, self._audio.full, 1), [])), {}).get(self._columns.audio)
        data = (first or {}).get("bytes") if isinstance(first, dict) else first
        if not data and isinstance(first, dict) and first.get("path"):
            self._audio = _Audio(self._audio.light, self._audio.light, "paths")
        return next((ending for magic, ending in _MAGIC.items() if (data or b"").startswith(magic)), ".wav")

    def _open(self) -> tuple[IO[bytes], Any]:
        """The open file, and pyarrow's reader of it."""
        try:
            import pyarrow as pa  # type: ignore[import-untyped]
            from pyarrow import parquet as pq
        except ImportError as error:
            raise UsageError(f"{self.name}: reading Parquet needs pyarrow: {INSTALL}") from error
        file = self.place.open(self.path)
        try:
            return file, pq.ParquetFile(file, pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            file.seek(0)
            is_pointer = file.read(len(_LFS)) == _LFS
            file.close()
            fix = "a pointer of Git LFS, not the data: git lfs pull" if is_pointer else f"damaged Parquet ({error})"
            raise UsageError(f"{self.name}: {fix}") from error

    def _batches(self, parquet: Any, names: list[str], size: int) -> Iterator[list[dict[str, Any]]]:
        import pyarrow as pa

        try:
            for batch in parquet.iter_batches(batch_size=size, columns=names, use_threads=False):
                yield batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{self.name}: damaged Parquet ({error})") from error


def _named(found: Columns) -> dict[str, str]:
    return {key: value for key, value in dataclasses.asdict(found).items() if isinstance(value, str)}


def _is_audio_type(kind: Any) -> bool:
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    return types.is_struct(kind) and bool({field.name for field in kind} & {"bytes", "array"})


def _audio_of(name: str, kind: Any) -> _Audio:
    from pyarrow import types

    if not types.is_struct(kind):
        holds_bytes = _is_audio_type(kind)
        return _Audio([name], [] if holds_bytes else [name], "bytes" if holds_bytes else "path")
    fields = {field.name for field in kind}
    light = [f"{name}.path"] if "path" in fields else []
    if "bytes" in fields:
        return _Audio([f"{name}.bytes", *light], light, "struct")
    return _Audio([f"{name}.array", f"{name}.sampling_rate", *light], light, "samples")


def _class_labels(schema: Any) -> dict[str, list[str]]:
    """The names of columns that are ClassLabels, from the metadata that Hugging Face's datasets write."""
    try:
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = facts.get("info", {}).get("features", {})
        return {name: feature["names"] for name, feature in features.items() if feature.get("names")}
    except (ValueError, AttributeError, TypeError):
        return {}


def _wav(samples: Any, rate_hz: int) -> bytes:
    """Samples as a float WAV file."""
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples, np.float32).T, int(rate_hz), format="WAV", subtype="FLOAT")
    return file.getvalue()
