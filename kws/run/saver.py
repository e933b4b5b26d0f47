"""Writes checkpoints in a thread, one after the other, while training goes on.

training: snapshot -> submit, or wait for the write before -> next step          thread: write, fsync, rename, pointer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from kws.errors import UsageError
from kws.run.checkpoint import Checkpoints


def snapshot(tree: Any) -> Any:
    """A copy in the host's memory of a tree of dicts, lists and tensors, which the next step does not change."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(snapshot(value) for value in tree)
    return tree


class Saver:
    """One write at a time."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")  # joined when the interpreter ends
        self._writing: Future[None] | None = None

    def save(
        self, name: str, state: Mapping[str, Any], model: Mapping[str, Tensor], optimizer: Mapping[str, Any] | None,
        ema: Mapping[str, Tensor] | None,
    ) -> None:  # fmt: skip
        """Takes a snapshot, and starts to write it as checkpoint `name`; `state["best"]` are the pointers that move.

        Waits for the write before, and raises what that one met.
        """
        model, optimizer, ema = snapshot(model), snapshot(optimizer), snapshot(ema)

        def write() -> None:
            _refuse_spoilt(model, state["step"])
            self._publish(self._checkpoints.save(model, optimizer, state, name, ema), state)

        self.submit(write)

    def save_copy(self, source: str, suffix: str, state: Mapping[str, Any]) -> None:
        """As `save`: the weights of checkpoint `source` with another state."""
        self.submit(lambda: self._publish(self._checkpoints.save_copy(source, state, source + suffix), state))

    def _publish(self, path: Path, state: Mapping[str, Any]) -> None:
        for pointer in state["best"]:
            self._checkpoints.move_pointer(pointer, path)
        self._checkpoints.prune()

    def submit(self, write: Callable[[], None]) -> None:
        """Starts a write once the one before is done; raises what that one met."""
        self.wait()
        self._writing = self._pool.submit(write)

    def wait(self) -> None:
        """Until nothing is being written; raises what the write met, once."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits; what the write met is raised unless something else ends the run already."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise

    @property
    def failed(self) -> bool:
        """Whether a write has failed; `wait` says how."""
        return bool(self._writing and self._writing.done() and self._writing.exception())


def _refuse_spoilt(model: Mapping[str, Tensor], step: int) -> None:
    """An update may spoil the weights a step before a loss shows it: such weights are never saved."""
    spoilt = [name for name, value in model.items() if not value.isfinite().all()]
    if spoilt:
        raise UsageError(
            f"step {step}: {spoilt[0]} is no finite number any more; the checkpoint before it is kept: "
            "use a lower --set train.lr=... or --set train.clip_grad_norm=1 in a new --run"
        )
