"""What a run learns from: its corpus, classes and plan, as the settings say. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kws.audio.codec import clip_samples
from kws.config import Config
from kws.corpus import tasks
from kws.corpus.tasks import Definition
from kws.data import index as index_file
from kws.data import selection
from kws.data.plan import Plan, PlanSettings
from kws.errors import UsageError


class TrainingSet:
    """Settings applied to a corpus. `samples` a clip; `steps_per_epoch`, `total_steps` of the run.

    `definition`: the task of a run that has begun, whatever became of its file; else the one that the settings name.
    Raises UsageError where there is no such corpus, or it has nothing to train or to validate on.
    """

    def __init__(self, config: Config, definition: Definition | None = None) -> None:
        if not config.data.shards:
            raise UsageError("data.shards: not set; use --set data.shards=DIR, a folder made by kws pack")
        self.config = config
        self.samples = clip_samples(config.data.clip_seconds)
        packed = index_file.load(Path(config.data.shards))
        self.selection = selection.apply(packed, definition or _definition(config, packed.words), self.samples)
        self.index, self.task = self.selection.index, self.selection.task
        if len(self.task.classes) < 2:
            raise UsageError(
                f"{self.index.root}: one class, {self.task.classes[0]}; wanted two words or more to tell apart"
            )
        self.steps_per_epoch = self.plan(0).steps
        self.total_steps = config.train.epochs * self.steps_per_epoch
        self._check_valid()

    def plan(self, epoch: int) -> Plan:
        """Which clips the slots of that epoch read."""
        return Plan(self.index.split("train"), self.task.class_of, PlanSettings.of(self.config), epoch)

    @property
    def read_samples(self) -> int:
        """Samples a clip that training reads: more than `samples` where the corpus has them and speed may need them."""
        chain = self.config.frontend
        if chain.speed_probability == 0.0:
            return self.samples
        needed = math.ceil(self.samples / (1.0 - chain.speed)) + 1
        longest = max(int(samples.max()) for (samples,) in self.index.split("train").pieces("samples"))
        return max(self.samples, min(needed, longest))

    def facts(self) -> dict[str, Any]:
        """For `--check` and run.json."""
        slots = self.config.train.slots
        return {
            "corpus": self.config.data.shards,
            "corpus_id": self.index.content_id,
            "task": self.task.definition.tree(),
            "task_notes": self.selection.lines(),
            "classes": self.task.classes,
            "clips": self.selection.sizes() | {"noise": len(self.index.splits.get("noise", ()))},
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.total_steps,
            "slots": slots,
            "world_sizes": [n for n in range(1, slots + 1) if slots % n == 0],
        }

    def _check_valid(self) -> None:
        """A corpus whose first evaluation would fail is refused before an epoch is spent."""
        if not sum(self.selection.counts("valid")):
            raise UsageError(
                f"{self.index.root}: split valid has no clip of the task's words, to validate on; pack again with a "
                "larger --valid, or with lists or a CSV that give it some"
            )


def _definition(config: Config, words: Sequence[str]) -> Definition:
    """The task that the settings name, for a corpus of these words."""
    if config.data.task == tasks.WORDS:
        return tasks.of_words(words, config.data.silence)
    return tasks.load(config.data.task)
