"""Frames of features as samples come in, in chunks of any size.

    int16 (n,) -> samples of unfinished frames -> frames -> window, FFT, mel bands -> mel power (M, F)

The frames are those of the whole recording, for any chunking: one more frame begins every `hop` samples, and it is
computed when its last sample is there. How mel power is scaled is up to the caller: most scales need a whole clip
(kws/streaming/window.py); those of Spec.streams do not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws.audio.codec import Pcm
from kws.audio.features import CPU_CLIPS, Features, to_float
from kws.errors import UsageError

_FRAMES_AT_ONCE = 101 * CPU_CLIPS
"""Frames that are transformed at once, so that they stay in the processor's cache."""


class StreamFeatures:
    """Mel power of a recording, frame by frame: push(int16 (n,)) -> (M, F) float32 on the device of `features`.

    All frames of `push` and `finish`, end to end, are those of the whole recording, (N, F) with N =
    spec.num_frames(samples). No sample at all gives no frame.
    """

    def __init__(self, features: Features) -> None:
        self.features, self.spec = features, features.spec
        # Centred frames begin before the first sample: zeros.
        self._waiting = np.zeros(-self.spec.frame_start, np.int16)
        self.num_samples = self.num_frames = 0
        """Samples that were pushed, and frames that were returned, so far."""

    def push(self, pcm: Pcm) -> Tensor:
        """The frames that these samples complete."""
        self.num_samples += len(pcm)
        return self._complete(pcm)

    def finish(self) -> Tensor:
        """The frames that reach over the end of the recording: zeros follow."""
        if self.num_samples == 0:
            return self._complete(np.zeros(0, np.int16))
        missing = self.spec.num_frames(self.num_samples) - self.num_frames
        end = (missing - 1) * self.spec.hop + self.spec.frame_samples
        return self._complete(np.zeros(max(0, end - len(self._waiting)) if missing else 0, np.int16))

    def scaled(self, mel: Tensor) -> Tensor:
        """Mel power (M, F) -> the network's input (1, 1, F, M). Raises UsageError for a scale that needs a clip."""
        if not self.spec.streams:
            raise UsageError(
                f"frontend.features: {self.features.name} are scaled by statistics of a whole clip and cannot be "
                "streamed; train with --set frontend.features=logmel40_stream"
            )
        return self.features.scaled(mel[None])

    def _complete(self, pcm: Pcm) -> Tensor:
        spec, waiting = self.spec, np.concatenate([self._waiting, pcm])
        count = max(0, 1 + (len(waiting) - spec.frame_samples) // spec.hop)
        self._waiting, self.num_frames = waiting[count * spec.hop :], self.num_frames + count
        parts = [self._mel(part) for part in self._parts(waiting, count)]
        return torch.cat(parts) if parts else self.features.window.new_zeros(0, spec.bands)

    def _parts(self, waiting: Pcm, count: int) -> Iterator[Pcm]:
        """The samples of `count` frames, some frames at a time."""
        hop, size = self.spec.hop, self.spec.frame_samples
        for first in range(0, count, _FRAMES_AT_ONCE):
            last = min(count, first + _FRAMES_AT_ONCE) - 1
            yield waiting[first * hop : last * hop + size]

    def _mel(self, pcm: npt.NDArray[np.int16]) -> Tensor:
        wave = to_float(torch.from_numpy(pcm).to(self.features.window.device))
        return self.features.mel_of_frames(wave[None].unfold(1, self.spec.frame_samples, self.spec.hop))[0]
