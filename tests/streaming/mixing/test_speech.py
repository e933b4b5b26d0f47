"""Where speech is found in a clip, and the level of sound."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from kws.audio import codec
from kws.streaming.mixing.speech import SILENCE_DB, active_db, find_speech
from tests.conftest import REAL, require, tone
from tests.streaming.mixing.conftest import END, START, noise, spoken


def test_the_speech_of_a_clip_is_found_to_a_frame() -> None:
    found = find_speech(spoken(500, 1))
    assert found is not None
    assert (found.start, found.end) == pytest.approx((START, END), abs=160)


def test_a_pause_inside_a_word_is_part_of_it_and_a_click_beside_it_is_not() -> None:
    clip = spoken(500, 1)
    clip[7000:8600] = 0
    clip[1000:1080] = 30_000
    found = find_speech(clip)
    assert found is not None
    assert (found.start, found.end) == pytest.approx((START, END), abs=160)


def test_of_two_words_the_longer_is_the_speech() -> None:
    clip = np.concatenate([spoken(500, 1)[: START + 1600], noise(0.5, level=10), spoken(500, 1)])
    found = find_speech(clip)
    assert found is not None
    assert found.start == pytest.approx(START + 1600 + 8000 + START, abs=160)


@pytest.mark.parametrize("clip", [np.zeros(16_000, np.int16), noise(1, level=10), noise(0.02, level=9000)])
def test_silence_noise_and_a_click_are_no_speech(clip: np.ndarray) -> None:
    assert find_speech(clip) is None


def test_all_of_a_clip_without_a_pause_is_speech() -> None:
    assert find_speech(tone(300, 8000)) == (0, 8000)


def test_the_level_of_sound_does_not_count_its_pauses() -> None:
    sine = np.sqrt(2) * 0.1 * np.sin(np.arange(16_000) * 0.3)
    with_pauses = np.concatenate([sine, np.zeros(48_000), sine]).astype(np.float32)
    assert active_db(sine.astype(np.float32)) == pytest.approx(-20, abs=0.05)
    assert active_db(with_pauses) == pytest.approx(-20, abs=0.05)
    assert active_db(noise(2).astype(np.float32) / 32768) == pytest.approx(20 * np.log10(1000 / 32768), abs=0.1)
    assert active_db(np.zeros(16_000, np.float32)) == SILENCE_DB
    assert active_db(np.full(50, 0.1, np.float32)) == pytest.approx(-20)


def test_in_real_clips_speech_is_found_and_lies_inside() -> None:
    archive = REAL / "speech_commands_mini.tar.gz"
    require("real", archive.exists(), f"the real clips are not at {REAL} (set KWS_REAL_DATA)")
    lengths, clips = [], 0
    with tarfile.open(archive) as tar:
        for number, member in enumerate(tar):
            if number % 4 or not member.name.endswith(".wav") or "_background_noise_" in member.name:
                continue
            file = tar.extractfile(member)
            assert file
            pcm, clips = codec.decode(file.read()), clips + 1
            found = find_speech(pcm)
            if found is not None:
                assert 0 <= found.start < found.end <= len(pcm)
                lengths.append((found.end - found.start) / 16_000)
    assert len(lengths) >= 0.97 * clips
    assert 0.3 < np.median(lengths) < 0.7
