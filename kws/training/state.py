"""Where a run is, and what it has summed up since it last said so."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from kws.config import TrainConfig
from kws.training.optim import Plateau


@dataclasses.dataclass
class TrainState:
    """Where the run is. `step` counts updates over the whole run; `evaluated`: the epoch that ended there was."""

    step: int = 0
    evaluated: bool = True
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    since_best: int = 0
    """Evaluations since the accuracy was best."""
    ended: bool = False
    """Whether train.stop_after ended the run before its last epoch."""
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    planned_epoch: int = 0
    planned: str = ""
    """Digest of the plan of the epoch that was last trained in."""

    def note(self, accuracy: float, loss: float, settings: TrainConfig) -> list[str]:
        """After an evaluation: brings the bests up to date; returns the pointers that move."""
        won = {"best_accuracy": accuracy > self.best_accuracy, "best_loss": loss < self.best_loss}
        self.best_accuracy, self.best_loss = max(accuracy, self.best_accuracy), min(loss, self.best_loss)
        self.since_best = 0 if won["best_accuracy"] else self.since_best + 1
        self.ended = 0 < settings.stop_after <= self.since_best
        if settings.schedule == "plateau":
            self.plateau.note(loss, settings)
        return [name for name, moved in won.items() if moved]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint, which holds more than this."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, state[field.name])
        self.plateau = Plateau(**state["plateau"])


@dataclasses.dataclass
class Meter:
    """Sums over some steps: loss in nats, correct clips, clips, seconds waited for data."""

    loss: float = 0.0
    correct: float = 0.0
    clips: int = 0
    waited: float = 0.0
    since: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, loss: float, correct: float, clips: int, waited: float) -> None:
        """One step."""
        self.loss, self.correct = self.loss + loss, self.correct + correct
        self.clips, self.waited = self.clips + clips, self.waited + waited

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Means and rates for a line of metrics; {} where no step was added."""
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
