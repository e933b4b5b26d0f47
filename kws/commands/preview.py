"""What `kws train CONFIG --check` shows: what would run, its memory, and what starting in the run folder would do.

Trainer (constructed, not run) -> preview(): one dict, for programs -> preview_table(), for people. Writes nothing.
The refusals are in kws/training/start_check.py, the time in kws/training/time_estimate.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kws.errors import UsageError
from kws.models.memory import activation_bytes
from kws.run.checkpoint import Checkpoints
from kws.training import start_check
from kws.training.distillation import teacher_line
from kws.training.initial import load_initial_weights
from kws.training.time_estimate import estimate_time
from kws.training.trainer import Trainer

if TYPE_CHECKING:
    from rich.table import Table

Preview = dict[str, Any]
NEW, RESUME, FINISHED, REFUSED = "new", "resume", "finished", "refused"


def preview(trainer: Trainer, config: Path) -> Preview:
    """Everything that the table shows, with the keys of run.json where it has them. All ranks call it together.

    `memory` is in bytes; `seconds` are those of a step, of an epoch, and of what is left of the run ("total").
    """
    train, ranks = trainer.config.train, trainer.ranks
    node_ranks = ranks.node_ranks()
    start = ranks.on_main(lambda: next_start(trainer, node_ranks))
    return {
        "config": str(config),
        **trainer.describe(),
        "epochs": train.epochs,
        "global_batch": train.global_batch,
        "micro_batch": train.micro_batch,
        "precision": train.precision,
        "channels_last": train.channels_last,
        "world_size": trainer.ranks.world_size,
        "threads": trainer.ranks.threads,
        "device": str(trainer.ranks.device),
        "memory": memory_bytes(trainer),
        "run": str(trainer.folder),
        **start,
        **_seconds(trainer, start),
    }


def _seconds(trainer: Trainer, start: Preview) -> Preview:
    """How long the run would take; changes `state` and `why` where a slot does not fit into memory."""
    if start["state"] not in (NEW, RESUME):
        return {"seconds": None}
    try:
        return {"seconds": dataclasses.asdict(estimate_time(trainer))}
    except UsageError as error:
        return {"seconds": None, "state": REFUSED, "why": str(error)}


def memory_bytes(trainer: Trainer) -> dict[str, int]:
    """Bytes that a process holds during a step, by purpose.

    Not included: torch and the other libraries (0.4 GB on a CPU, 0.6 with the augmentation chain's compiled loops), the
    augmentation chain's tensors, and temporary tensors of the layers; kws.models.memory gives its accuracy.
    """
    train, network = trainer.config.train, trainer.network
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[train.precision]
    channels, bands, frames = trainer.features.shape(trainer.training_set.samples)
    states = 2 if train.optimizer == "adamw" else int(train.momentum > 0.0)
    shards = 1
    if train.zero:  # the optimizer's state and a copy of the weights are divided over the processes
        states, shards = states + 1, trainer.ranks.world_size
    copies = 1
    if train.reduction == "exact":  # the flat buffer, and up to log2(slots) + 1 partial sums of the tree
        copies = 2 + int(math.log2(train.slots // trainer.ranks.world_size))
    parts = {
        "weights": weights + buffers,
        "gradients": copies * weights,
        "optimizer": states * weights // shards,
        "averaged": weights if train.ema else 0,
        "activations": activation_bytes(network, (channels, bands, frames), train.micro_batch, dtype),
    }
    if trainer.teachers:
        parts["teachers"] = trainer.teachers.num_bytes()
    return parts | {"total": sum(parts.values())}


def next_start(trainer: Trainer, node_ranks: Sequence[int] = (0,)) -> Preview:
    """What a start in the run folder would do; loads that checkpoint's position, or train.init, into the trainer.

    `state`: new, resume, finished or refused. `step`: the step it would resume from. `why`: the reasons of a refusal,
    or None. `notes`: incomplete checkpoints that would be skipped, and what train.init would load. Rank 0 only.
    """
    notes: list[str] = []
    newest = Checkpoints(trainer.folder, warn=notes.append).newest()
    if newest:
        trainer.state.load_state_dict(newest.state)
    wrong = start_check.refusals(trainer, node_ranks)
    if trainer.config.train.init and not newest:
        try:
            notes.append(load_initial_weights(trainer.training_set, trainer.network, trainer.features))
        except UsageError as error:
            wrong.append(str(error))
    why = "; ".join(wrong) or None
    state = REFUSED if why else FINISHED if newest and trainer.done else RESUME if newest else NEW
    return {"state": state, "step": trainer.state.step, "why": why, "notes": notes}


def preview_table(found: Mapping[str, Any]) -> Table:
    """The preview with one line per entry."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    lines = Table(box=SIMPLE, show_header=False, show_edge=False, padding=(0, 1))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column()
    for name, text in _lines(found).items():
        lines.add_row(name, Text(text, style=_style(found["state"]) if name == "would" else ""))
    return lines


def _lines(found: Mapping[str, Any]) -> dict[str, str]:
    classes, clips, parts = found["classes"], found["clips"], found["memory"]
    return {
        "config": found["config"],
        "corpus": f"{found['corpus']} ({found['corpus_id'][:12]})",
        "clips": ", ".join(f"{name} {count:,}" for name, count in clips.items()),
        "recordings": "\n".join(dict.fromkeys([found["clip_lengths"], *found["clip_notes"]])),
        **({"task": "\n".join(found["task_notes"])} if found["task_notes"] else {}),
        "classes": f"{len(classes)}: {' '.join(classes)}",
        "network": "\n".join([f"{found['network']}, {found['parameters']:,} parameters", *found["network_notes"]]),
        **({"teacher": "\n".join(teacher_lines(found))} if found.get("teachers") else {}),
        "input": " x ".join(map(str, found["input"])) + " (channels x bands x frames)",
        "steps": f"{_several(found['epochs'], 'epoch')} of {found['steps_per_epoch']:,}: "
        + "; ".join([f"{found['steps']:,}", *found["step_notes"]]),
        "step": f"{found['global_batch']} clips: {_several(found['slots'], 'slot')} of {found['micro_batch']}",
        "precision": "\n".join(
            [found["precision"] + ", channels_last" * found["channels_last"], *found["precision_notes"]]
        ),
        "processes": f"{found['world_size']} now, {found['device']}, {_several(found['threads'], 'thread')} each; "
        f"possible: {', '.join(map(str, found['world_sizes']))}",
        "memory": f"at least {_size(parts['total'])} per process: "
        + ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size and name != "total"),
        **({"time": _describe_time(found)} if found["seconds"] else {}),
        "run": found["run"],
        "would": _describe_start(found),
    } | ({"note": "\n".join(found["notes"])} if found["notes"] else {})


def teacher_lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each teacher, and the notes about them."""
    return [*map(teacher_line, found["teachers"]), *found["teacher_notes"]]


def _describe_start(found: Mapping[str, Any]) -> str:
    return {
        NEW: "start",
        RESUME: f"resume from step {found['step']:,} of {found['steps']:,}",
        FINISHED: f"do nothing: finished at step {found['step']:,}",
        REFUSED: f"be refused: {found['why']}",
    }[found["state"]]


def _describe_time(found: Mapping[str, Any]) -> str:
    seconds = found["seconds"]
    return (
        f"about {_duration(seconds['total'])} from here to the end: {_duration(seconds['epoch'])} an epoch, "
        f"{_duration(seconds['step'])} a step; an estimate for this machine and "
        f"{_several(found['world_size'], 'process')}, from {seconds['measured_clips']} made-up clips"
    )


def _duration(seconds: float) -> str:
    """0.0312 -> "31 ms"; 4000 -> "1 h 7 min"."""
    if seconds < 1.0:
        return f"{1000.0 * seconds:.2g} ms"
    if seconds < 120.0:
        return f"{seconds:.2g} s" if seconds < 10.0 else f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes / 60 / 24:.1f} days"


def _style(state: str) -> str:
    return "red" if state == REFUSED else "green"


def _several(count: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{count:,} {what}" + (plural if count > 1 else "")


def _size(count: int) -> str:
    """12,345,678 -> "12.3 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000.0:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:.1f} GB"
