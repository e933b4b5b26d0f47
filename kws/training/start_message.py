"""What a run prints before its first step: network, classes, steps, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kws.data.training_set import TrainingSet
from kws.distributed.process_group import main_address
from kws.training.distillation import teacher_line


def start_message(training_set: TrainingSet, facts: dict[str, Any], step: int) -> str:
    """Lines of text from the facts of run.json; `step`: the step from which the run starts."""
    config, ranks = training_set.config, facts["ranks"]
    train, chain = config.train, config.frontend
    lines = [f"{config.model.name}, {facts['parameters']:,} parameters, {len(training_set.task.classes)} classes"]
    lines += [f"teacher {teacher_line(row)}" for row in facts.get("teachers", ())]
    lines += training_set.selection.notes() + [f"note: {line}" for line in facts["clip_notes"] + facts["step_notes"]]
    lines += [f"note: {line}" for line in facts["network_notes"] + facts["precision_notes"]]
    lines += [f"note: {line}" for line in (*facts.get("stream_notes", ()), *facts.get("teacher_notes", ()))]
    left = training_set.total_steps - step
    lines.append(f"{left} steps to train, each of {train.global_batch} clips in {train.slots} slots")
    uses_noise = chain.noise_probability or chain.mix_probability
    if uses_noise and not len(training_set.index.splits.get("noise", ())):
        lines.append(f"note: {training_set.index.root} has no noise recordings: trained without noise")
    threads = facts["threads"]
    lines.append(f"{_count(len(ranks), 'process')}, {_count(threads, 'torch thread')} each")
    lines += ["  rank {rank}  {host}  {device}  slots {slots}".format(**row) for row in ranks]
    return "\n".join(lines)


def unreachable_message(ranks: Sequence[int]) -> str:
    """The note where some ranks cannot connect to rank 0, so that the watchdog cannot see them end."""
    listed = ", ".join(map(str, ranks))
    return f"note: ranks {listed} cannot connect to rank 0 at {main_address()}: if they end, it may go unnoticed"


def _count(number: int, noun: str) -> str:
    """2, "process" -> "2 processes"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"
