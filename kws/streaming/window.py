"""The sliding window, for any network: the scores of the last window of a recording, every few frames.

    samples -> StreamFeatures: each frame once -> the last N frames -> scaled as a clip -> network -> probabilities

The scores at time t are those of the network on the samples of the last `data.clip_seconds` before t, cut out as a
clip; they need no later samples. Only the first and last frames of a window differ from those of the recording: where
frames are centred they reach over the window's ends, and there are zeros, as in training. These are computed for each
window: four of 101 frames for most features, none for `logmel40_stream`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import Features, to_float
from kws.distributed.arithmetic import full_float32
from kws.errors import UsageError
from kws.evaluation.trained import ScoredNetwork
from kws.streaming.front_end import StreamFeatures
from kws.streaming.scores import Scores, joined, no_scores
from kws.streaming.threads import one_thread

WINDOWS_AT_ONCE = 16
"""The most windows that the network takes in one batch, where a chunk completes so many."""


class WindowScorer:
    """The scores of the last window, every `step_s` seconds: a Scorer.

    `step_s` is `hop_ms` rounded to whole frames. The first score comes at most one step after the first sample: where
    the frames of its window are frames of the recording. The last one comes at the end of the recording, or at most a
    step after it. Raises UsageError where hop_ms is not positive, or longer than a window.
    """

    def __init__(self, trained: ScoredNetwork, hop_ms: float = 100.0) -> None:
        self._trained = trained
        self.classes: Sequence[str] = trained.classes
        self._step = step_frames(trained, hop_ms) * trained.features.spec.hop
        self.step_s = self._step / SAMPLE_RATE_HZ
        self._windows = _WindowFeatures(trained.features, trained.samples, self._step)
        # Silence before the recording: as many whole hops as hold a window. All counts below begin with it.
        hop = trained.features.spec.hop
        self._silence = -(-trained.samples // hop) * hop
        self._waiting = [np.zeros(self._silence, np.int16)]
        self._samples = self._silence
        """How many samples came so far."""
        self._end = self._step + trained.samples
        """After how many samples the next window ends."""

    def push(self, pcm: Pcm) -> Scores:
        """The scores of the windows that end in these samples, (n,)."""
        most = WINDOWS_AT_ONCE * self._step
        parts = [self._push(pcm[at : at + most]) for at in range(0, len(pcm), most)]
        return joined(parts) if parts else no_scores(len(self.classes))

    def finish(self) -> Scores:
        """The score of a last window, where samples came after the one before it: zeros follow them."""
        missing = self._end - self._samples
        scored = missing == self._step or self._samples == self._silence  # all samples, or there were none
        return self.push(np.zeros(0 if scored else missing, np.int16))

    def _push(self, pcm: Pcm) -> Scores:
        self._waiting.append(pcm)
        self._samples += len(pcm)
        if self._samples < self._end:
            return no_scores(len(self.classes))
        count = 1 + (self._samples - self._end) // self._step
        with torch.inference_mode(), full_float32(), one_thread():
            features = self._windows.next(np.concatenate(self._waiting), count)
            probabilities = self._trained.network(features).float().softmax(dim=1).cpu().numpy()
        self._waiting.clear()
        times = (self._end - self._silence + self._step * np.arange(count)) / SAMPLE_RATE_HZ
        self._end += count * self._step
        return Scores(times, probabilities)


def step_frames(trained: ScoredNetwork, hop_ms: float) -> int:
    """`hop_ms` in whole frames, at least 1. Raises UsageError where it is not positive, or longer than a window."""
    window_ms, frame_ms = (1000 * n / SAMPLE_RATE_HZ for n in (trained.samples, trained.features.spec.hop))
    if not 0.0 < hop_ms <= window_ms:
        raise UsageError(
            f"hop_ms: found {hop_ms:g}, wanted more than 0 and at most {window_ms:g}, the length of a window "
            "(data.clip_seconds)"
        )
    return max(1, min(round(hop_ms / frame_ms), int(window_ms / frame_ms)))


@dataclasses.dataclass(frozen=True)
class _Edges:
    """How many frames of a window reach over its first and over its last sample."""

    first: int
    last: int

    @classmethod
    def of(cls, features: Features, samples: int) -> Self:
        """Of windows of `samples` samples."""
        spec = features.spec
        before, after = -spec.frame_start, spec.frame_start + spec.frame_samples
        inside = max(0, 1 + (samples - after) // spec.hop)  # frames that do not reach over the last sample
        return cls(-(-before // spec.hop), spec.num_frames(samples) - inside)


class _WindowFeatures:
    """Features of windows of `samples` samples, one every `step` samples, a multiple of the hop; the first begins at
    sample `step`."""

    def __init__(self, features: Features, samples: int, step: int) -> None:
        self._features, self._spec, self._samples, self._step = features, features.spec, samples, step
        self._edges, self._num_frames = _Edges.of(features, samples), features.spec.num_frames(samples)
        self._stream = StreamFeatures(features)
        self._start = step
        """First sample of the next window."""
        self._pcm, self._first_sample = np.zeros(0, np.int16), 0
        self._mel, self._first_frame = features.window.new_zeros(0, features.spec.bands), 0
        """Samples and frames that windows still need, and the numbers of the first ones."""

    def next(self, pcm: Pcm, count: int) -> Tensor:
        """The next `count` windows (count, 1, F, N), after these samples (n,), which complete the last of them."""
        self._pcm = np.concatenate([self._pcm, pcm])
        self._mel = torch.cat([self._mel, self._stream.push(pcm)])
        mel = self._mel_of_windows(count)
        self._start += count * self._step
        self._forget()
        return self._features.scaled(mel)

    def _mel_of_windows(self, count: int) -> Tensor:
        """Mel power, (count, N, F)."""
        pcm = torch.from_numpy(self._pcm[self._start - self._first_sample :]).to(self._mel.device)
        waves = to_float(pcm).unfold(0, self._samples, self._step)[:count]
        first, last = self._edges.first, self._edges.last
        inside = self._num_frames - first - last
        if inside <= 0:
            return self._features.mel_of_spectrum(self._features.spectrum(waves))
        at = self._start // self._spec.hop - self._first_frame + first
        shared = self._mel[at:].unfold(0, inside, self._step // self._spec.hop)[:count].transpose(1, 2)
        if first + last == 0:
            return shared
        edges = self._features.mel_of_frames(self._edge_frames(waves))
        return torch.cat([edges[:, :first], shared, edges[:, first:]], dim=1)

    def _edge_frames(self, waves: Tensor) -> Tensor:
        """Samples of the frames that reach over the ends of windows (B, samples): (B, frames, frame_samples)."""
        spec, edges = self._spec, self._edges
        size, start = spec.frame_samples, spec.frame_start
        head = pad(waves[:, : (edges.first - 1) * spec.hop + start + size], (-start, 0))
        tail_start = (self._num_frames - edges.last) * spec.hop + start
        end = (self._num_frames - 1) * spec.hop + start + size
        tail = pad(waves[:, tail_start:], (0, end - self._samples))
        return torch.cat([part.unfold(1, size, spec.hop) for part in (head, tail)], dim=1)

    def _forget(self) -> None:
        """Drops the samples and frames before the next window."""
        self._pcm, self._first_sample = self._pcm[self._start - self._first_sample :], self._start
        # The frames that begin a window a whole window later may not be there yet.
        done = min(len(self._mel), self._start // self._spec.hop - self._first_frame)
        self._mel, self._first_frame = self._mel[done:], self._first_frame + done
