"""The background of files: what is drawn, and that its samples do not depend on how they are read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.errors import UsageError
from kws.streaming.mixing.background import Rules, Source, open_source
from kws.streaming.mixing.settings import MixSettings
from kws.streaming.mixing.speech import active_db
from kws.streaming.mixing.timeline import Backgrounds, Timeline
from tests.streaming.mixing.conftest import noise

SECOND = 16_000


def opened(*paths: Path) -> list[Source]:
    return [open_source(path, Rules(()), path.parent / "unpacked", lambda *done: None) for path in paths]


def test_equal_samples_for_any_cut_of_the_time(sounds: Path) -> None:
    planned = Backgrounds(MixSettings(), opened(sounds))
    planned.pieces(7 * SECOND)
    timeline = Timeline(planned, planned.pieces(20 * SECOND))
    whole = timeline.read(0, 20 * SECOND)
    edges = [0, 1, 38, 1000, 55_555, 8 * SECOND, 8 * SECOND + 160, 20 * SECOND]
    parts = [timeline.read(start, end) for start, end in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("generated", [False, True])
def test_a_file_is_filled_at_the_level_of_each_scene(sounds: Path, generated: bool) -> None:
    planned = Backgrounds(MixSettings(background_db=(-45, -25)), [] if generated else opened(sounds))
    pieces = planned.pieces(150 * SECOND)
    assert pieces[0].at == 0
    assert pieces[-1].end == 150 * SECOND
    timeline = Timeline(planned, pieces)
    for piece in pieces:
        assert -45 <= piece.level_db <= -25
        inner = timeline.read(piece.at + 800, piece.end - 800)
        assert active_db(inner) == pytest.approx(piece.level_db, abs=0.5)
        fade = timeline.read(max(0, piece.at - 400), piece.at + 400)
        assert np.sqrt((fade**2).mean()) > 0
    assert len({piece.level_db for piece in pieces}) > 1


def test_no_part_is_used_again_before_all_were_and_repeats_are_said(sounds: Path) -> None:
    sources = opened(sounds)
    planned = Backgrounds(MixSettings(), sources)
    parts = [piece.part for _ in range(3) for piece in planned.pieces(60 * SECOND)]
    count = len(sources[0].parts)
    assert count == 4
    assert all(set(parts[at : at + count]) == set(range(count)) for at in range(0, len(parts) - count, count))
    assert "times" in next(planned.repeats())


def test_sources_have_equal_shares_of_the_scenes(sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "other.wav").write_bytes(codec.wav_bytes(noise(90)))
    planned = Backgrounds(MixSettings(), opened(sounds / "long.flac", tmp_path / "other.wav"))
    pieces = [piece for _ in range(4) for piece in planned.pieces(240 * SECOND)]
    levels = [{piece.level_db for piece in pieces if piece.source == source} for source in (0, 1)]
    assert abs(len(levels[0]) - len(levels[1])) <= 1


def test_a_recording_that_ends_early_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(codec.flac_bytes(noise(20)))
    sources = opened(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:9000])
    planned = Backgrounds(MixSettings(), sources)
    timeline = Timeline(planned, planned.pieces(10 * SECOND))
    with pytest.raises(UsageError, match=r"a\.flac"):
        timeline.read(0, 10 * SECOND)


def test_digital_silence_stays_silent(tmp_path: Path) -> None:
    (tmp_path / "zeros.wav").write_bytes(codec.wav_bytes(np.zeros(5 * SECOND, np.int16)))
    planned = Backgrounds(MixSettings(), opened(tmp_path / "zeros.wav"))
    timeline = Timeline(planned, planned.pieces(8 * SECOND))
    assert not timeline.read(0, 8 * SECOND).any()
