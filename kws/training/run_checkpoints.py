"""The checkpoints of a run: their contents, how all ranks save one together, and how a run resumes from one.

position, corpus, task, normalisation -> state.json      weights, optimizer, averaged weights -> their own files
(kws/run/checkpoint.py: the files and pointers; kws/run/saver.py: the thread that writes them)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kws.audio.features import BandStatistics, Features
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.run.checkpoint import Checkpoint, Checkpoints
from kws.run.log import RunLog
from kws.run.saver import Saver
from kws.training.forward import Progress
from kws.training.initial import load_initial_weights, measure_normalisation, refuse_other_plan
from kws.training.state import TrainState
from kws.training.step import Stepper


@dataclasses.dataclass
class RunCheckpoints:
    """All ranks call `take_position`, `load`, `save` and `wait` together; rank 0 writes, but for sharded optimizers.

    Saved and loaded are `network`, the normalisation of `features`, and `state`, the run's position. `say` prints a
    line.
    """

    folder: Path
    training_set: TrainingSet
    ranks: Ranks
    network: nn.Module
    features: Features
    state: TrainState
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        train = self.training_set.config.train
        self._files = Checkpoints(self.folder, train.keep, self.say)
        self.saver = Saver(self._files)
        self._seconds_between = 60.0 * train.save_minutes
        self._band_statistics: BandStatistics | None = None  # features are normalised by these
        self.start_clock()

    # --- resuming ---------------------------------------------------------------------------------------------

    def take_position(self) -> Checkpoint | None:
        """The newest whole checkpoint, with the position taken over from it; None for a new run.

        Raises UsageError where the plan is not the one that the run began with.
        """
        name = self.ranks.on_main(self._newest_name)
        if name is None:
            return None
        checkpoint = self._files.find(name)
        self.state.load_state_dict(checkpoint.state)
        refuse_other_plan(self.folder, self.training_set, self.state)
        total = self.training_set.total_steps
        self.say(f"{self.folder}: resuming from {name}, step {self.state.step} of {total}")
        return checkpoint

    def _newest_name(self) -> str | None:
        """Name of the newest whole checkpoint. Moves its pointers again: a kill may have prevented it."""
        newest = self._files.newest()
        if newest is None:
            return None
        for pointer in ("last", *newest.state.get("best", ())):
            self._files.move_pointer(pointer, newest.path)
        return newest.name

    def load(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        """Weights and normalisation: from the checkpoint, else from train.init, else as initialised. Optimizer and
        averaged weights follow in `Stepper.load`, once the network is wrapped."""
        self.ranks.on_all(lambda: self._load_weights(checkpoint, progress))
        if self._band_statistics:
            self.features.normalise_by(self._band_statistics)

    def _load_weights(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        if checkpoint:
            self.network.load_state_dict(checkpoint.model())
            self._band_statistics = checkpoint.state.get("normal")
            return
        config = self.training_set.config
        if config.frontend.normalise != "none":
            with progress.no_time_limit("measuring features"):
                self._band_statistics = self.ranks.on_main(lambda: measure_normalisation(self.training_set))
        if config.train.init:
            self.say(load_initial_weights(self.training_set, self.network, self.features))

    # --- saving -----------------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """The next checkpoint is due train.save_minutes from now, unless one is saved before."""
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether train.save_minutes have passed on this rank."""
        return time.monotonic() - self._saved_at >= self._seconds_between

    def save(self, stepper: Stepper, log: RunLog, suffix: str = "", improved: Sequence[str] = ()) -> str:
        """Saves a checkpoint, which a thread writes in the background. Returns its name.

        `suffix` is for a second checkpoint of the same step, after its evaluation; `improved`: the pointers that move
        to it. `log` is on the disk before the checkpoint is valid. Raises the error of writing the previous checkpoint.
        """
        name = f"step-{self.state.step:08d}"
        if stepper.sharded and not suffix:
            self.wait()
            stepper.save_shards(self._files.optimizer_shards(name))

        def submit() -> None:
            log.flush()
            if suffix:
                self.saver.save_copy(name, suffix, self._state(improved))
            else:
                ema = stepper.ema.state_dict() if stepper.ema else None
                self.saver.save(name, self._state(improved), self.network.state_dict(), stepper.state_dict(), ema)

        self.ranks.on_main(submit)
        self.start_clock()
        return name + suffix

    def _state(self, improved: Sequence[str]) -> dict[str, Any]:
        """The contents of state.json."""
        packed, task = self.training_set.selection.packed, self.training_set.task
        corpus: dict[str, Any] = {"corpus_id": packed.content_id, "words": packed.words}
        corpus |= {"task": task.definition.tree(), "classes": task.classes}
        epoch = self.state.step // self.training_set.steps_per_epoch
        more = {"epoch": epoch, "best": list(improved), "normal": self._band_statistics}
        return self.state.state_dict() | corpus | more

    def wait(self) -> None:
        """Every rank waits until the saved checkpoints are on the disk and their pointers moved; raises what writing
        them raised."""
        self.ranks.on_main(self.saver.wait)
