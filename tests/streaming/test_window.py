"""The sliding window: its scores are those of the network on windows that are cut out as clips."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import SPECS, Features
from kws.errors import UsageError
from kws.evaluation.trained import Trained
from kws.models import registry
from kws.streaming.scorers import make_scorer, scorer_notes
from kws.streaming.scores import Scores, joined
from kws.streaming.window import WindowScorer
from tests.streaming.recordings import in_chunks, recording
from tests.streaming.references import by_windows

WORDS = ("yes", "no", "stop")


def trained(features: str = "logmel40", seconds: float = 1.0, network: str = "tc_resnet8") -> Trained:
    """A network with random weights and what a scorer needs beside it."""
    torch.manual_seed(0)
    samples, made = round(seconds * SAMPLE_RATE_HZ), Features(features)
    model = registry.build_model(network, len(WORDS), made.shape(samples)).eval()
    return cast(Trained, SimpleNamespace(network=model, features=made, classes=WORDS, samples=samples))


def scored(scorer: WindowScorer, pcm: Pcm, chunk: int) -> Scores:
    """The scores of a whole recording, in chunks."""
    return joined([*map(scorer.push, in_chunks(pcm, chunk)), scorer.finish()])


def assert_equals_windows(given: Trained, pcm: Pcm, found: Scores) -> None:
    np.testing.assert_allclose(found.probabilities, by_windows(given, pcm, found.times), rtol=0, atol=1e-5)
    assert found.probabilities.dtype == np.float32
    assert len(np.unique(found.probabilities, axis=0)) > 1  # or equality would show nothing


@pytest.mark.parametrize("name", SPECS)
def test_scores_equal_those_of_windows_cut_out_as_clips(name: str) -> None:
    given, pcm = trained(name), recording(1.5)
    assert_equals_windows(given, pcm, scored(WindowScorer(given), pcm, 1000))


@pytest.mark.parametrize("chunk", [1, 37, 160, 16_000])
@pytest.mark.parametrize("name", ["mel32", "logmel40_stream"])
def test_chunks_of_any_size_give_the_same_scores(name: str, chunk: int) -> None:
    given, pcm = trained(name), recording(0.5 if chunk == 1 else 1.5)
    found, wanted = (scored(WindowScorer(given, 60), pcm, size) for size in (chunk, 24_000))
    np.testing.assert_array_equal(found.times, wanted.times)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "seconds", "hop_ms"),
    [
        pytest.param(name, seconds, hop_ms, marks=() if (seconds, hop_ms) == (0.1234, 70) else pytest.mark.slow)
        for name in ("mel32", "logmel40", "logmel40_stream")
        for seconds in (0.1, 0.1234, 0.7)
        for hop_ms in (10, 32, 70, 100)
    ],
)
def test_windows_of_any_length_and_step(name: str, seconds: float, hop_ms: float) -> None:
    given, pcm = trained(name, seconds, "res8"), recording(0.8)
    assert_equals_windows(given, pcm, scored(WindowScorer(given, hop_ms), pcm, 700))


def test_a_long_chunk_is_scored_in_several_batches() -> None:
    given, pcm = trained(), recording(5.0)
    found = scored(WindowScorer(given, 50), pcm, len(pcm))
    assert len(found.times) == 100
    assert_equals_windows(given, pcm, found)


# --- when the scores come -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (1599, 1), (1600, 1), (1601, 2), (16_000, 10), (16_001, 11)])
def test_every_sample_is_in_a_window_and_the_last_window_ends_less_than_a_step_later(samples: int, count: int) -> None:
    found = scored(WindowScorer(trained()), recording(1.1)[:samples], 999)
    np.testing.assert_allclose(found.times, 0.1 * np.arange(1, count + 1), rtol=1e-12)


def test_a_score_comes_with_the_last_sample_of_its_window() -> None:
    scorer, pcm = WindowScorer(trained()), recording(1.0)
    assert len(scorer.push(pcm[:1599]).times) == 0
    assert scorer.push(pcm[1599:1600]).times.tolist() == [0.1]


def test_no_samples_give_no_scores() -> None:
    scorer = WindowScorer(trained("mel32"))
    for found in (scorer.push(np.zeros(0, np.int16)), scorer.finish()):
        assert found.times.shape == (0,)
        assert found.probabilities.shape == (0, len(WORDS))


def test_the_number_of_threads_is_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        WindowScorer(trained()).push(recording(0.2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- the time between scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hop_ms", "step_ms"),
    [("logmel40", 100, 100), ("logmel40", 1, 10), ("logmel40", 104, 100), ("mel32", 100, 96), ("mel32", 1000, 992)],
)
def test_the_time_between_scores_is_whole_frames_and_rounding_is_said(name: str, hop_ms: float, step_ms: float) -> None:
    given = trained(name)
    scorer = make_scorer(given, "auto", hop_ms)
    assert scorer.step_s == pytest.approx(step_ms / 1000)
    found = scored(cast(WindowScorer, scorer), recording(2.5), 5000)
    np.testing.assert_allclose(np.diff(found.times), step_ms / 1000)
    notes = scorer_notes(given, "auto", hop_ms)
    assert len(notes) == (hop_ms != step_ms)
    assert all(f"{step_ms:g} ms" in note for note in notes)


@pytest.mark.parametrize("hop_ms", [0, -10, 1001, float("nan")])
def test_a_step_that_leaves_samples_out_is_refused(hop_ms: float) -> None:
    with pytest.raises(UsageError, match=r"hop_ms.*1000"):
        make_scorer(trained(), "window", hop_ms)
