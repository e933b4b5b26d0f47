"""Train, evaluate and use keyword-spotting networks. `import kws` does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kws.evaluation.predict import Recognizer

__version__ = "0.1.0"


def load(run: str | Path, checkpoint: str = "best_accuracy") -> Recognizer:
    """Loads the trained network of a run folder as a callable from waveform to words and probabilities.

    `load(run)(wave, rate)` takes float or int16 samples (T,) at `rate` Hz and returns [(word, probability), ...],
    most probable first. Raises `kws.errors.UsageError` where the folder has no such complete checkpoint.
    """
    from kws.evaluation.predict import Recognizer

    return Recognizer.from_run(Path(run), checkpoint)
