"""Frames as samples come in, against those of the whole recording."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kws.audio.features import SPECS, Features, to_float
from kws.errors import UsageError
from kws.streaming.front_end import StreamFeatures
from tests.streaming.recordings import in_chunks, recording

CHUNKS = (1, 37, 160, 1000, 16_000)


def whole(features: Features, pcm: np.ndarray) -> torch.Tensor:
    """Mel power of a whole recording, (N, F)."""
    return features.mel_of_spectrum(features.spectrum(to_float(torch.from_numpy(pcm))[None]))[0]


def streamed(features: Features, pcm: np.ndarray, chunk: int) -> torch.Tensor:
    stream = StreamFeatures(features)
    return torch.cat([*map(stream.push, in_chunks(pcm, chunk)), stream.finish()])


def assert_equal(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.max()))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_frames_equal_those_of_the_whole_recording_for_any_chunks(name: str, chunk: int) -> None:
    features, pcm = Features(name), recording(0.3 if chunk == 1 else 1.3)
    assert_equal(streamed(features, pcm, chunk), whole(features, pcm))


@pytest.mark.parametrize("name", ["mel32", "logmel40", "logmel40_stream"])
@pytest.mark.parametrize("samples", [1, 159, 160, 399, 400, 401, 511, 512, 1024, 2047, 2048])
def test_recordings_of_any_length_have_all_their_frames(name: str, samples: int) -> None:
    features, pcm = Features(name), recording(0.2)[:samples]
    assert_equal(streamed(features, pcm, 37), whole(features, pcm))


@pytest.mark.parametrize("name", SPECS)
def test_a_frame_comes_with_its_last_sample(name: str) -> None:
    features, pcm = Features(name), recording(0.3)
    stream, spec = StreamFeatures(features), Features(name).spec
    end = 4 * spec.hop + spec.frame_start + spec.frame_samples
    assert len(stream.push(pcm[: end - 1])) == 4
    assert len(stream.push(pcm[end - 1 : end])) == 1


def test_no_samples_give_no_frames() -> None:
    stream = StreamFeatures(Features("logmel40"))
    assert stream.push(np.zeros(0, np.int16)).shape == stream.finish().shape == (0, 40)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_features_on_a_fixed_scale_equal_those_of_the_whole_recording(chunk: int) -> None:
    features = Features("logmel40_stream", ([-1.0] * 40, [2.0] * 40))
    pcm = recording(0.3 if chunk == 1 else 1.3)
    stream = StreamFeatures(features)
    found = torch.cat([stream.scaled(stream.push(part)) for part in in_chunks(pcm, chunk)], dim=3)
    torch.testing.assert_close(found, features(torch.from_numpy(pcm)[None]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if not spec.streams])
def test_features_with_statistics_of_the_clip_are_not_scaled_in_a_stream(name: str) -> None:
    stream = StreamFeatures(Features(name))
    with pytest.raises(UsageError, match=r"frontend\.features.*logmel40_stream"):
        stream.scaled(stream.push(recording(0.3)))
