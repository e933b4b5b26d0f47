"""The law of streaming: for any chunks, the scores of the network on the whole recording at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.errors import UsageError
from kws.models.registry import MODELS, build_model
from kws.models.time_context import TimeNetwork
from kws.streaming.network import NetworkScorer, StreamingForm, can_stream
from kws.streaming.scorers import make_scorer, scorer_notes
from kws.streaming.scores import Scores, joined
from kws.streaming.window import WindowScorer
from tests.models.checks import slow
from tests.streaming.learned import WORDS, clips, learned
from tests.streaming.recordings import in_chunks, recording
from tests.streaming.references import at_once, by_end

STREAMABLE = [name for name in MODELS if name.endswith(("_causal", "_valid")) or name == "mixednet"]
QUICK = ("tc_resnet8_causal", "mixednet")


def trained_once(*names: str) -> list[object]:
    """The parameters, those that are not QUICK as slow ones. One pytest worker runs all tests of a network, because it
    is trained first, which takes up to 5 s."""
    marks = {name: () if name in QUICK else (pytest.mark.slow,) for name in names}
    return [pytest.param(name, marks=[pytest.mark.xdist_group(f"learned {name}"), *marks[name]]) for name in names]


def scored(scorer: NetworkScorer | WindowScorer, pcm: Pcm, chunk: int) -> Scores:
    """The scores of a whole recording, in chunks."""
    return joined([*map(scorer.push, in_chunks(pcm, chunk)), scorer.finish()])


@pytest.mark.parametrize("chunk", [37, 16_000, *slow(1, 160, 1000)])
@pytest.mark.parametrize("name", trained_once(*STREAMABLE))
def test_scores_of_chunks_are_those_of_the_whole_recording(name: str, chunk: int) -> None:
    given, pcm = learned(name), recording(0.6 if chunk == 1 else 1.3, seed=1)
    found = scored(NetworkScorer(given), pcm, chunk)
    np.testing.assert_allclose(found.probabilities, at_once(given, pcm, found.times), rtol=0, atol=1e-5)
    assert found.probabilities.max() > 0.5 + found.probabilities.min()  # or equality would show little
    assert found.probabilities.shape == (len(found.times), len(WORDS))


@pytest.mark.parametrize("name", trained_once(*QUICK, "ds_cnn_s_valid", "bcresnet_1_causal"))
def test_there_is_a_score_for_every_step_from_the_first_sample_to_the_end(name: str) -> None:
    given, pcm = learned(name), recording(0.5)
    scorer = NetworkScorer(given)
    found, spec = scored(scorer, pcm, 1000), given.features.spec
    np.testing.assert_allclose(np.diff(found.times), scorer.step_s)
    assert 0 < found.times[0] <= scorer.step_s
    # The last group holds the last frame that begins before the end.
    after = found.times[-1] - len(pcm) / SAMPLE_RATE_HZ
    assert 0 <= after <= scorer.step_s + spec.frame_samples / SAMPLE_RATE_HZ


@pytest.mark.parametrize("name", trained_once("mixednet", "ds_cnn_s_valid"))
def test_a_valid_network_equals_the_sliding_window(name: str) -> None:
    """A window ends with 80 samples that no frame of it uses."""
    given, pcm = learned(name), recording(2.0, seed=2)
    stream, window = scored(NetworkScorer(given), pcm, 800), scored(WindowScorer(given, 100), pcm, 800)
    unused = (given.samples - given.features.spec.frame_samples) % given.features.spec.hop
    own = by_end(stream.times * SAMPLE_RATE_HZ, stream.probabilities)
    wanted = by_end(window.times * SAMPLE_RATE_HZ - unused, window.probabilities)
    assert len(wanted) == 20
    for end, row in wanted.items():
        np.testing.assert_allclose(own[end], row, rtol=0, atol=1e-5)


def test_the_networks_learned() -> None:
    given = learned("tc_resnet8_causal")
    wave, labels = clips(64, given.samples, seed=1000)
    with torch.inference_mode():
        assert (given.network(given.features(wave)).argmax(dim=1) == labels).float().mean() > 0.8


def test_an_empty_recording_has_no_scores() -> None:
    scorer = NetworkScorer(learned("mixednet"))
    assert scorer.push(np.zeros(0, np.int16)).probabilities.shape == (0, len(WORDS))
    assert scorer.finish().times.shape == (0,)


def test_silence_changes_no_state() -> None:
    given = learned("mixednet")
    pcm = np.zeros(4000, np.int16)
    found = scored(NetworkScorer(given), pcm, 777).probabilities
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-6)


def test_a_network_that_can_stream_gets_its_streaming_form() -> None:
    given = learned("mixednet")
    assert can_stream(given)
    assert isinstance(make_scorer(given), NetworkScorer)
    assert isinstance(make_scorer(given, "window"), WindowScorer)
    assert not scorer_notes(given)
    assert "hop_ms 50" in scorer_notes(given, hop_ms=50)[0]


def test_states_are_plain_tensors_in_a_fixed_order() -> None:
    network = build_model("tc_resnet8_causal", 3, (1, 40, 98)).eval()
    assert isinstance(network, TimeNetwork)
    form = StreamingForm(network, 98)
    states = form.initial_states(torch.full((1, 1, 40, 1), -4.0))
    wanted = [context.past_frames for context in network.contexts] + [form.positions - 1]
    assert [state.shape[-1] for state in states] == wanted == [2, 7, 8, 7, 8, 7, 8, 11]
    logits, following = form(torch.randn(1, 1, 40, 16), states)
    assert logits.shape == (1, 2, 3)
    assert [state.shape for state in following] == [state.shape for state in states]


@pytest.mark.parametrize(
    ("name", "features", "setting"),
    [("tc_resnet8", "logmel40_stream", "model.name"), ("tc_resnet8_causal", "logmel40", "frontend.features")],
)
def test_what_cannot_be_streamed_is_refused(name: str, features: str, setting: str) -> None:
    given = learned(name, features=features, updates=0)
    with pytest.raises(UsageError, match=setting):
        make_scorer(given, "stream")
    assert isinstance(make_scorer(given), WindowScorer)
    assert not can_stream(given)
