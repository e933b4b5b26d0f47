"""Where a run is (TrainState, part of every checkpoint), and running means between two lines of the log (Meter)."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from kws.config import TrainConfig
from kws.training.optim import Plateau


@dataclasses.dataclass
class TrainState:
    """Position and history of a run. `step` counts updates over the whole run, from 0."""

    step: int = 0
    evaluation_pending: bool = False
    """Whether `step` ends an epoch that has not been evaluated and recorded yet."""
    best_accuracy: float = -1.0
    """Highest accuracy on the valid split, a fraction."""
    best_loss: float = float("inf")
    """Lowest mean loss on the valid split, in nats."""
    best_detection: tuple[float, float] = (float("inf"), float("inf"))
    """Of the evaluations with train.valid_stream: the fewest false accepts an hour and the share of the words missed
    with them (StreamFigures of kws/training/valid_stream.py)."""
    since_best: int = 0
    """Evaluations since the accuracy was best."""
    ended: bool = False
    """Whether train.stop_after ended the run before its last epoch."""
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    planned_epoch: int = 0
    """The epoch that was trained last; `planned` is the digest of its plan."""
    planned: str = ""

    def record_evaluation(self, accuracy: float, loss: float, settings: TrainConfig) -> list[str]:
        """Updates the best values after an evaluation; returns the checkpoint pointers that move, such as
        `best_accuracy`."""
        improved = {"best_accuracy": accuracy > self.best_accuracy, "best_loss": loss < self.best_loss}
        self.best_accuracy, self.best_loss = max(accuracy, self.best_accuracy), min(loss, self.best_loss)
        self.since_best = 0 if improved["best_accuracy"] else self.since_best + 1
        self.ended = 0 < settings.stop_after <= self.since_best
        if settings.schedule == "plateau":
            self.plateau.record_loss(loss, settings)
        return [name for name, moved in improved.items() if moved]

    def record_detection(self, figures: tuple[float, float]) -> list[str]:
        """Updates the best figures on the valid streams; returns the checkpoint pointers that move."""
        if figures >= self.best_detection:
            return []
        self.best_detection = (figures[0], figures[1])
        return ["best_detection"]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint's state.json."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint's state.json, which holds more than this. Also reads those of older versions: they have no
        `best_detection`, and those of version 0.1 have `evaluated`, the opposite of `evaluation_pending`."""
        if "evaluation_pending" not in state:
            state = state | {"evaluation_pending": not state["evaluated"]}
        for field in dataclasses.fields(self):
            if field.name != "best_detection":
                setattr(self, field.name, state[field.name])
        rate, missed = state.get("best_detection", self.best_detection)
        self.best_detection = (float(rate), float(missed))
        self.plateau = Plateau(**state["plateau"])


@dataclasses.dataclass
class Meter:
    """Sums over some steps: loss in nats, correct clips, clips, seconds spent waiting for data."""

    loss: float = 0.0
    correct: float = 0.0
    clips: int = 0
    waited: float = 0.0
    since: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, loss: float, correct: float, clips: int, waited: float) -> None:
        """Adds one step."""
        self.loss, self.correct = self.loss + loss, self.correct + correct
        self.clips, self.waited = self.clips + clips, self.waited + waited

    def means(self, prefix: str = "") -> dict[str, float]:
        """Means and rates for a line of metrics.jsonl; {} where no step was added."""
        seconds = time.perf_counter() - self.since
        if not self.clips:
            return {}
        return {
            f"{prefix}loss": self.loss / self.clips,
            f"{prefix}accuracy": self.correct / self.clips,
            "clips_per_s": self.clips / seconds,
            "data_wait": self.waited / seconds,
            "seconds": seconds,
        }
