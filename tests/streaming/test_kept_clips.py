from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.errors import UsageError
from kws.streaming.kept_clips import ClipKeeper, ClipRequest, KeptClips
from tests.conftest import tone


def recording() -> codec.Pcm:
    """Ten quiet seconds with a tone of 0.4 s from 4.0 s on."""
    pcm = (np.random.default_rng(0).standard_normal(160_000) * 20).astype(np.int16)
    pcm[64_000:70_400] = tone(500, 6400)
    return pcm


def keep(folder: Path, moments: list[ClipRequest], chunk: int, pcm: codec.Pcm) -> list[Path]:
    """The files that are kept of moments which are known 1.2 s after their time."""
    keeper = ClipKeeper(KeptClips(folder, "anna", "T0", 16_000), oldest_s=1.2)
    files: list[Path] = []
    for at in range(0, len(pcm), chunk):
        end = (at + chunk) / 16_000
        due = [moment for moment in moments if end - chunk / 16_000 <= moment.time_s + 1.2 < end]
        files += keeper.push(pcm[at : at + chunk], due)
    return files + keeper.finish()


@pytest.mark.parametrize("chunk", [800, 1000, 160_000])
def test_the_loudest_second_around_a_moment_is_kept_with_the_word_in_its_middle(chunk: int, tmp_path: Path) -> None:
    pcm = recording()
    moments = [ClipRequest("yes", 4.7, is_near_miss=False), ClipRequest("no", 4.3, is_near_miss=True)]
    files = keep(tmp_path, moments, chunk, pcm)
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        "yes/anna_nohash_T0-00004700.wav", "_near_misses_/no/anna_nohash_T0-00004300.wav",
    }  # fmt: skip
    for path in files:
        clip = codec.decode(path.read_bytes())
        assert len(clip) == 16_000
        start = np.abs(clip.astype(int)).argmax() - 200  # the tone is 4.0 to 4.4 s; its middle is near the clip's
        assert 0 < start < 9_600
        assert any(np.array_equal(pcm[at : at + 16_000], clip) for at in range(56_000, 64_000))


def test_at_both_ends_of_the_audio_a_clip_has_what_there_is(tmp_path: Path) -> None:
    pcm = recording()[:8_000]
    keeper = ClipKeeper(KeptClips(tmp_path, "anna", "T0", 16_000), oldest_s=1.2)
    files = keeper.push(pcm, [ClipRequest("yes", 0.1, is_near_miss=False)]) + keeper.finish()
    assert [codec.decode(path.read_bytes()).tolist() for path in files] == [pcm.tolist()]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/clips.*--keep"):
        KeptClips(tmp_path / "file" / "clips", "anna", "T0", 16_000).make_folder()
