"""The training set of a run: the corpus, the task and the sampling plan that the settings name."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kws.config import Config
from kws.corpus import tasks
from kws.corpus.tasks import Definition
from kws.data import clip_lengths, selection
from kws.data import index as index_file
from kws.data.clip_lengths import ClipLengths
from kws.data.excerpt import Excerpt
from kws.data.plan import Plan, PlanSettings
from kws.errors import UsageError

_FEW_STEPS = 60
"""Measured on six wake words (docs/log.md): after 30 steps 39 % on the test split, after 48 steps 100 %."""


class TrainingSet:
    """A corpus with the settings of a run applied to it.

    config: the settings, with a number for data.clip_seconds = "auto". excerpt: which part of a recording is its clip.
    samples: length of a clip. steps_per_epoch, total_steps: optimizer steps of an epoch and of the run. selection,
    index, task: the corpus as the task uses it. definition: the task that the run began with, read from its checkpoint;
    by default the task that the settings name. Raises UsageError where there is no such corpus, or where it has too few
    classes or no clips to validate on.
    """

    def __init__(self, config: Config, definition: Definition | None = None) -> None:
        if not config.data.shards:
            raise UsageError("data.shards: not set; use --set data.shards=DIR, a folder made by kws pack")
        packed = index_file.load(Path(config.data.shards))
        self.config = config = dataclasses.replace(config, data=clip_lengths.resolve(config.data, packed))
        self.excerpt = Excerpt.from_config(config.data)
        self.samples = self.excerpt.samples
        self.selection = selection.apply_task(
            packed, definition or _task_definition(config, packed.words), self.samples, config.data.negatives
        )
        self.index, self.task = self.selection.index, self.selection.task
        if len(self.task.classes) < 2:
            raise UsageError(f"{self.index.root}: one class, {self.task.classes[0]}; wanted two classes or more")
        self.steps_per_epoch = self.plan(0).steps
        self.total_steps = config.train.epochs * self.steps_per_epoch
        self._check_valid()

    def plan(self, epoch: int) -> Plan:
        """Returns the sampling plan of an epoch."""
        return Plan(self.index.split("train"), self.task.class_of, PlanSettings.from_config(self.config), epoch)

    @property
    def read_samples(self) -> int:
        """Number of samples that training reads of each clip.

        More than `samples` where the augmentation may speed a clip up and the corpus has longer clips.
        """
        chain = self.config.frontend
        if chain.speed_probability == 0.0:
            return self.samples
        needed = math.ceil(self.samples / (1.0 - chain.speed)) + 1
        longest = max(int(samples.max()) for (samples,) in self.index.split("train").chunks("samples"))
        return max(self.samples, min(needed, longest))

    @functools.cached_property
    def clip_lengths(self) -> ClipLengths:
        """The lengths of the corpus's recordings beside the length of a clip."""
        return ClipLengths.of(self.selection.packed, self.excerpt)

    def describe(self) -> dict[str, Any]:
        """Returns corpus, task and sizes, for `--check` and run.json."""
        slots = self.config.train.slots
        return {
            "corpus": self.config.data.shards,
            "corpus_id": self.index.content_id,
            "task": self.task.definition.tree(),
            "task_notes": self.selection.notes(),
            "classes": self.task.classes,
            "clip_seconds": self.config.data.clip_seconds,
            "excerpt": self.excerpt.rule,
            "clip_lengths": self.clip_lengths.line(),
            "clip_notes": self._clip_notes(),
            "clips": self.selection.split_sizes() | {"noise": len(self.index.splits.get("noise", ()))},
            "train_clips": dict(zip(self.task.classes, self.selection.class_counts("train"), strict=True)),
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.total_steps,
            "step_notes": self._step_notes(),
            "slots": slots,
            "world_sizes": [n for n in range(1, slots + 1) if slots % n == 0],
        }

    def _clip_notes(self) -> list[str]:
        """Notes on the lengths of recordings, and where shorter ones are not at the beginning of training clips."""
        if self.config.frontend.place == "start" or not self.clip_lengths.shorter:
            return self.clip_lengths.notes()
        return [
            *self.clip_lengths.notes(anywhere=True),
            "frontend.place = anywhere: in training, a recording that is shorter than "
            f"{self.clip_lengths.seconds:g} s lies at a random place of its clip",
        ]

    def _step_notes(self) -> list[str]:
        """A note where a run has too few steps for the running statistics of batch norm to follow the weights."""
        if self.total_steps >= _FEW_STEPS:
            return []
        return [
            f"only {self.total_steps} steps will be trained; below about {_FEW_STEPS}, the accuracy on the valid split "
            "can stay low although training goes well: use more train.epochs, or a smaller train.global_batch"
        ]

    def _check_valid(self) -> None:
        """Raises UsageError where the first evaluation would find no clip, before an epoch is trained."""
        if not sum(self.selection.class_counts("valid")):
            raise UsageError(
                f"{self.index.root}: split valid has no clip of the task's words; pack again with a larger --valid, "
                "or with lists or a CSV that put clips into it"
            )


def _task_definition(config: Config, words: Sequence[str]) -> Definition:
    """Returns the task that the settings name, for a corpus of these words."""
    if config.data.task == tasks.WORDS:
        return tasks.words_task(words, config.data.silence, has_unknown=config.data.negatives > 0.0)
    return tasks.load(config.data.task)
