"""Which part of a recording is its clip."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws.audio.codec import Pcm
from kws.config import ExcerptRule
from kws.data.excerpt import Excerpt
from tests.conftest import tone

SECOND = 16000


def recording(word_at: int, length: int, word: int = 8000, background: float = 30.0) -> Pcm:
    """Quiet noise of `length` samples with a tone of `word` samples from `word_at` on."""
    wave = np.random.default_rng(0).standard_normal(length) * background
    wave[word_at : word_at + word] += tone(300, word)
    return wave.astype(np.int16)


@pytest.mark.parametrize("rule", get_args(ExcerptRule))
@pytest.mark.parametrize("length", [1, 100, 15999, 16000])
def test_a_recording_that_is_not_longer_is_its_clip(rule: ExcerptRule, length: int) -> None:
    pcm = recording(0, length, min(length, 50))
    clip = Excerpt(SECOND, rule).of(pcm)
    assert Excerpt(SECOND, rule).start(pcm) == 0
    assert np.array_equal(clip[:length], pcm)
    assert (len(clip), clip[length:].any()) == (SECOND, False)


def test_start_and_middle_do_not_depend_on_the_sound() -> None:
    pcm = recording(40_000, 48_000)
    assert Excerpt(SECOND, "start").start(pcm) == 0
    assert Excerpt(SECOND, "middle").start(pcm) == SECOND


@pytest.mark.parametrize("word_at", [0, 3000, 12_000, 24_321, 40_000])
@pytest.mark.parametrize("offset", [0, 3000])
@pytest.mark.parametrize("click", [False, True])
def test_the_loudest_part_has_the_word_in_its_middle(word_at: int, offset: int, click: bool) -> None:
    """Also with a constant offset, and with a click of 5 ms that is louder than the word."""
    pcm = recording(word_at, 48_000) + np.int16(offset)
    if click:
        pcm[33_000:33_080] = np.tile(np.array([29_000, -29_000], np.int16), 40)
    start = Excerpt(SECOND).start(pcm)
    wanted = np.clip(word_at + 4000 - 8000, 0, 32_000)
    assert start == pytest.approx(wanted, abs=800)


def test_a_word_that_is_longer_than_the_clip_fills_it() -> None:
    start = Excerpt(SECOND).start(recording(16_000, 64_000, word=32_000))
    assert 16_000 - 800 <= start <= 32_000 + 800


@pytest.mark.parametrize("value", [0, 1, -32768, 12345])
def test_of_constant_sound_the_middle_is_used(value: int) -> None:
    assert Excerpt(SECOND).start(np.full(48_001, value, np.int16)) == SECOND


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from(get_args(ExcerptRule)))
def test_every_clip_lies_inside_its_recording(length: int, samples: int, seed: int, rule: ExcerptRule) -> None:
    pcm = np.random.default_rng(seed).integers(-32768, 32768, length).astype(np.int16)
    excerpt = Excerpt(samples, rule)
    start = excerpt.start(pcm)
    assert 0 <= start <= max(0, length - samples)
    assert np.array_equal(excerpt.of(pcm)[:length], pcm[start : start + samples])
