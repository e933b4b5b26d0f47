"""The network on whole windows and on whole recordings: what the scores of continuous audio must equal."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.evaluation.trained import Trained
from kws.models.time_context import TimeNetwork


def by_windows(given: Trained, pcm: Pcm, times: np.ndarray) -> np.ndarray:
    """The network on the samples of the last window before each time, cut out as clips, (M, C)."""
    padded = np.pad(pcm, (given.samples, given.samples))
    ends = np.rint(times * SAMPLE_RATE_HZ).astype(int) + given.samples
    windows = np.stack([padded[end - given.samples : end] for end in ends])
    with torch.inference_mode():
        found: np.ndarray = given.network(given.features(torch.from_numpy(windows))).softmax(dim=1).numpy()
    return found


def by_end(samples: np.ndarray, probabilities: np.ndarray) -> dict[int, np.ndarray]:
    """The probabilities by the sample at which what they depend on ends."""
    return dict(zip(np.rint(samples).astype(int).tolist(), probabilities, strict=True))


def at_once(given: Trained, pcm: Pcm, times: np.ndarray) -> np.ndarray:
    """The network on the whole recording after digital silence, and its mean over a window before each time: (M, C)."""
    network, spec = given.network, given.features.spec
    assert isinstance(network, TimeNetwork)
    positions = network.positions(spec.num_frames(given.samples))
    field = network.receptive_field + (positions - 1) * network.time_stride
    ends = np.rint(times * SAMPLE_RATE_HZ).astype(int)
    # Frames of silence, so many that a group of the stride ends with the first of the times.
    first = (ends[0] - spec.frame_samples) // spec.hop + 1
    before = field + 2 * network.time_stride
    before += -(before + first) % network.time_stride
    if network.time_padding == "valid":
        before += network.receptive_field % network.time_stride
    wave = np.pad(pcm, (before * spec.hop, 2 * SAMPLE_RATE_HZ))
    with torch.inference_mode():
        embedding = network.embed(given.features(torch.from_numpy(wave[None])))
        means = F.avg_pool1d(embedding, positions, stride=1)[0].T
        probabilities = network.classify(means).softmax(dim=1).numpy()
    lost = network.receptive_field if network.time_padding == "valid" else network.time_stride
    last = lost - 1 + network.time_stride * (np.arange(len(probabilities)) + positions - 1)  # frames
    found = by_end((last - before) * spec.hop + spec.frame_samples, probabilities)
    return np.stack([found[end] for end in ends.tolist()])
