"""Raw samples from a pipe, however they come."""

from __future__ import annotations

import io

import numpy as np
import pytest

from kws.audio import codec
from kws.errors import UsageError
from kws.streaming.audio_stream import RawFormat, raw_blocks
from tests.conftest import tone


class Pipe(io.BytesIO):
    """Gives at most `most` bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self.most = most

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(min(self.most, size or self.most))


@pytest.mark.parametrize("most", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("form", [RawFormat(), RawFormat(16_000, 2), RawFormat(44_100, 1)])
def test_pieces_of_any_size_give_the_same_samples(most: int, form: RawFormat) -> None:
    raw = np.stack([tone(300, 700)] * form.channels, axis=1)
    found = np.concatenate(list(raw_blocks(Pipe(raw.tobytes() + b"\1" * (form.channels > 1), most), form)))
    assert np.array_equal(found, codec.pcm_from_float((raw[:, 0] / 32768.0).astype(np.float32), form.rate_hz))


@pytest.mark.parametrize(("data", "form", "says"), [
    (b"", RawFormat(), "no sample"), (b"\1\1", RawFormat(16_000, 2), "no sample"),
    (codec.wav_bytes(tone(300)), RawFormat(), "wav"), (codec.flac_bytes(tone(300)), RawFormat(), "-f s16le"),
    (b"\1\1", RawFormat(10, 1), "--rate"), (b"\1\1", RawFormat(16_000, 0), "--channels"),
])  # fmt: skip
def test_what_is_no_raw_sound_is_refused(data: bytes, form: RawFormat, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        list(raw_blocks(io.BytesIO(data), form))
