"""What `kws train CONFIG --check` says: what would run, in how much memory, and what the run folder would do.

Trainer (made, not run) -> facts(): one dict, for programs -> table(), for people. Nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kws.errors import UsageError
from kws.models.memory import activation_bytes
from kws.run import folder as run_folder
from kws.run import lock
from kws.run.checkpoint import Checkpoints
from kws.run.environment import describe_environment
from kws.training.trainer import Trainer

if TYPE_CHECKING:
    from rich.table import Table

Facts = dict[str, Any]
NEW, RESUME, FINISHED, REFUSED = "new", "resume", "finished", "refused"


def facts(trainer: Trainer, config: Path) -> Facts:
    """Everything that the table shows, under the names of run.json; bytes in `memory`."""
    train = trainer.config.train
    return {
        "config": str(config),
        **trainer.describe(),
        "epochs": train.epochs,
        "global_batch": train.global_batch,
        "micro_batch": train.micro_batch,
        "world_size": trainer.ranks.world_size,
        "threads": trainer.ranks.threads,
        "device": str(trainer.ranks.device),
        "memory": memory(trainer),
        "run": str(trainer.folder),
        **outlook(trainer),
    }


def memory(trainer: Trainer) -> dict[str, int]:
    """Bytes that a process keeps through a step, by what they are for.

    Not in it: what torch and the libraries take (0.4 GB on a CPU, 0.6 with the training chain's compiled loops), the
    training chain's own tensors, and what layers take while they work; kws.models.memory says how near it comes.
    """
    train, network = trainer.config.train, trainer.network
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[train.precision]
    planes, bands, frames = trainer.features.shape(trainer.training_set.samples)
    states = 2 if train.optimizer == "adamw" else int(train.momentum > 0.0)
    share = 1
    if train.zero:  # of the optimizer's state, and of a copy of the weights
        states, share = states + 1, trainer.ranks.world_size
    copies = 1
    if train.reduction == "exact":  # the flat buffer, and up to log2(S) + 1 partial sums of its tree
        copies = 2 + int(math.log2(train.slots // trainer.ranks.world_size))
    parts = {
        "weights": weights + buffers,
        "gradients": copies * weights,
        "optimizer": states * weights // share,
        "averaged": weights if train.ema else 0,
        "activations": activation_bytes(network, (planes, bands, frames), train.micro_batch, kind),
    }
    return parts | {"total": sum(parts.values())}


def outlook(trainer: Trainer) -> Facts:
    """What a start in the run folder would do: `state` new, resume, finished or refused, `step` it would go on from,
    `why` it is refused (or None), `notes` on checkpoints passed over. The trainer then stands at that step."""
    notes: list[str] = []
    newest = Checkpoints(trainer.folder, warn=notes.append).newest()
    if newest:
        trainer.state.load_state_dict(newest.state)
    step, why = trainer.state.step, _refusal(trainer)
    state = REFUSED if why else FINISHED if newest and trainer.done else RESUME if newest else NEW
    return {"state": state, "step": step, "why": why, "notes": notes}


def _refusal(trainer: Trainer) -> str | None:
    """Why the folder would not be taken, or None."""
    try:
        lock.refuse_if_in_use(trainer.folder)
        run_folder.check_settings(
            trainer.folder, trainer.config, trainer.describe() | describe_environment(trainer.ranks)
        )
    except UsageError as error:
        return str(error)
    return None


def table(found: Mapping[str, Any]) -> Table:
    """One line a fact."""
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
        **({"task": "\n".join(found["task_notes"])} if found["task_notes"] else {}),
        "classes": f"{len(classes)}: {' '.join(classes)}",
        "network": f"{found['network']}, {found['parameters']:,} parameters",
        "input": " x ".join(map(str, found["input"])) + " (planes x bands x frames)",
        "steps": f"{_several(found['epochs'], 'epoch')} of {found['steps_per_epoch']:,}: {found['steps']:,}",
        "a step": f"{found['global_batch']} clips: {_several(found['slots'], 'slot')} of {found['micro_batch']}",
        "processes": f"{found['world_size']} now, {found['device']}, {_several(found['threads'], 'thread')} each; "
        f"may be {', '.join(map(str, found['world_sizes']))}",
        "memory": f"{_size(parts['total'])} a process at least: "
        + ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size and name != "total"),
        "run": found["run"],
        "would": _would(found),
    } | ({"note": "\n".join(found["notes"])} if found["notes"] else {})


def _would(found: Mapping[str, Any]) -> str:
    return {
        NEW: "start",
        RESUME: f"go on from step {found['step']:,} of {found['steps']:,}",
        FINISHED: f"do nothing: finished, at step {found['step']:,}",
        REFUSED: f"be refused: {found['why']}",
    }[found["state"]]


def _style(state: str) -> str:
    return "red" if state == REFUSED else "green"


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count > 1 else "")


def _size(count: int) -> str:
    """12,345,678 -> "12.3 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000.0:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:.1f} GB"
