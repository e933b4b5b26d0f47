"""The result of an evaluated split: each clip's probabilities, the figures computed from them, and their two files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws import files, metrics

TOP = 5


@dataclasses.dataclass(frozen=True)
class SplitResult:
    """In order of clip id: ids and truth (n,), probabilities (n, C); and the mean loss in nats."""

    clips: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    loss: float

    @property
    def prediction(self) -> npt.NDArray[np.int64]:
        """The most probable class of each clip, (n,)."""
        best: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def accuracy(self) -> float:
        """Fraction of the clips whose most probable class is the true one."""
        return float((self.prediction == self.truth).mean())

    def top(self, count: int = TOP) -> npt.NDArray[np.int64]:
        """The `count` most probable classes of each clip, most probable first, (n, count)."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, as a fraction."""
        return metrics.calibration_error(self.probabilities.max(axis=1), self.prediction == self.truth)

    def summary(self, split: str, classes: Sequence[str], provenance: dict[str, Any]) -> dict[str, Any]:
        """The content of `eval/SPLIT.json`: confusion matrix and figures, beside what was evaluated."""
        counts = metrics.confusion_matrix(self.truth, self.prediction, len(classes))
        in_top = (self.top() == self.truth[:, None]).any(axis=1)
        figures = {
            "loss": self.loss,
            f"top{TOP}": float(in_top.mean()),
            "calibration_error": self.calibration_error,
            **metrics.summarise_confusion(counts, classes),
        }
        return {"split": split, **provenance, **figures}

    def write(self, stem: Path, summary: dict[str, Any]) -> None:
        """Writes the summary to STEM.json, and every clip to STEM.clips.npz (clips, truth, top5, probabilities,
        classes)."""
        with files.replaced(stem.with_name(f"{stem.name}.clips.npz")) as partial, partial.open("wb") as out:
            np.savez_compressed(
                out, clips=self.clips, truth=self.truth, top5=self.top(),
                probabilities=self.probabilities, classes=np.array(summary["classes"]),
            )  # fmt: skip
        files.write_json(stem.with_name(f"{stem.name}.json"), summary)


def file_stem(split: str, crop: bool) -> str:
    """Name of a result's files in RUN/eval, without suffix."""
    return f"{split}-crop" if crop else split
