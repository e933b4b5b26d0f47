"""Streaming networks: every frame is computed once, and each layer keeps the end of the chunk before.

    samples -> StreamFeatures -> frames, in multiples of the stride -> StreamingForm -> probabilities
                                                             states ->               -> states for the next chunk

The scores equal those of the network on the whole recording at once, after digital silence, for any chunking: at each
step of the stride, the embedding's mean over the last positions, as many as a training window has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.distributed.arithmetic import full_float32
from kws.errors import UsageError
from kws.evaluation.trained import ScoredNetwork
from kws.models.time_context import TimeNetwork
from kws.streaming.front_end import StreamFeatures
from kws.streaming.scores import Scores, joined, no_scores
from kws.streaming.threads import one_thread

_SAMPLES_AT_ONCE = 10 * SAMPLE_RATE_HZ
"""The most samples that are computed at once, so that memory stays flat whatever the size of the chunks."""


class StreamingForm(nn.Module):
    """A network as a function of a chunk and its states, which are plain tensors in a fixed order.

    (B, 1, F, n) frames, states -> logits (B, n / time_stride, C), states for the next chunk. The states are those of
    the temporal layers and, last, the embeddings (B, C, positions - 1) that the mean over a window still needs.
    `frames`: how many a training window has.
    """

    def __init__(self, network: TimeNetwork, frames: int) -> None:
        super().__init__()
        self.network, self.positions = network, network.positions(frames)

    def initial_states(self, silence: Tensor) -> list[Tensor]:
        """The states after digital silence; `silence` is one frame of it, (B, 1, F, 1)."""
        stride = self.network.time_stride
        frames = -(-self.network.receptive_field // stride) * stride
        embedding, states = self.network.stream(silence.expand(-1, -1, -1, frames))
        return [*states, embedding[..., -1:].repeat(1, 1, self.positions - 1)]

    def forward(self, chunk: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        embedding, following = self.network.stream(chunk, states[:-1])
        embedding = torch.cat((states[-1], embedding), dim=2)
        means = F.avg_pool1d(embedding, self.positions, stride=1).transpose(1, 2)
        logits = self.network.classify(means.flatten(0, 1))
        return logits.reshape(*means.shape[:2], -1), [
            *following,
            embedding[..., embedding.shape[2] - self.positions + 1 :],
        ]


def can_stream(trained: ScoredNetwork) -> bool:
    """Whether a `NetworkScorer` accepts this network and its features."""
    network = trained.network
    return isinstance(network, TimeNetwork) and network.streams and trained.features.spec.streams


class NetworkScorer:
    """The scores of a streaming network, one each `step_s` seconds: a Scorer.

    The first score is that of the first frames that reach over the beginning of the recording. Raises UsageError where
    the network or its features cannot be streamed.
    """

    def __init__(self, trained: ScoredNetwork) -> None:
        network = trained.network
        if not (isinstance(network, TimeNetwork) and network.streams):
            raise UsageError(
                f"model.name: {trained.config.model.name} cannot be streamed; `kws models` shows which networks can"
            )
        self.classes: Sequence[str] = trained.classes
        spec = trained.features.spec
        self._front = StreamFeatures(trained.features)
        self._form = StreamingForm(network, spec.num_frames(trained.samples))
        self._overlap, self._group = spec.frame_samples - spec.hop, spec.hop * network.time_stride
        self.step_s = self._group / SAMPLE_RATE_HZ
        with torch.inference_mode(), full_float32(), one_thread():
            silence = self._front.scaled(trained.features.window.new_zeros(1, spec.bands))
            self._states = self._form.initial_states(silence)
        # Silence before the recording, whole hops of it, so that the first frames reach over the beginning.
        self._silence = -(-self._overlap // spec.hop) * spec.hop
        self._waiting = np.zeros(self._silence, np.int16)
        self._computed = 0
        """How many samples the front end has received, with the silence."""
        self._end = self._group + self._overlap
        """After how many samples the next score is complete."""

    def push(self, pcm: Pcm) -> Scores:
        """The scores that these samples (n,) complete."""
        starts = range(0, max(1, len(pcm)), _SAMPLES_AT_ONCE)
        return joined([self._push(pcm[start : start + _SAMPLES_AT_ONCE]) for start in starts])

    def finish(self) -> Scores:
        """The scores of the frames that begin before the end of the recording: zeros follow."""
        samples = self._computed + len(self._waiting)
        if samples == self._silence:
            return no_scores(len(self.classes))
        groups = -(-samples // self._group)
        return self.push(np.zeros(groups * self._group + self._overlap - samples, np.int16))

    def _push(self, pcm: Pcm) -> Scores:
        self._waiting = np.concatenate([self._waiting, pcm])
        count = max(0, 1 + (self._computed + len(self._waiting) - self._end) // self._group)
        if count == 0:
            return no_scores(len(self.classes))
        ends = self._end + self._group * np.arange(count)
        used = int(ends[-1]) - self._computed
        with torch.inference_mode(), full_float32(), one_thread():
            frames = self._front.scaled(self._front.push(self._waiting[:used]))
            logits, self._states = self._form(frames, self._states)
            probabilities = logits[0].float().softmax(dim=1).cpu().numpy()
        self._waiting, self._computed, self._end = self._waiting[used:], int(ends[-1]), int(ends[-1]) + self._group
        return Scores((ends - self._silence) / SAMPLE_RATE_HZ, probabilities)
