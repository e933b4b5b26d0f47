"""Train, evaluate and use keyword-spotting networks. `import kws` does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kws.streaming.recognizer import ContinuousRecognizer

__version__ = "0.1.0"


def load(run: str | Path, checkpoint: str = "best_accuracy") -> ContinuousRecognizer:
    """Loads the trained network of a run folder, on the GPU if there is one.

    `loaded(wave, rate)`: samples (T,), float in [-1, 1] or int16, at `rate` Hz -> [(word, probability), ...], most
    probable first; for a batch, (B, T) or a list of waves, a list of these. `loaded.windows(wave, rate)` and
    `loaded.stream()` are for continuous audio: kws/streaming/recognizer.py. Raises `kws.errors.UsageError` where the
    folder has no such complete checkpoint.
    """
    from kws.streaming.recognizer import ContinuousRecognizer

    return ContinuousRecognizer.from_run(Path(run), checkpoint)
