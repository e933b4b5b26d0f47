"""Writes checkpoints in a thread, one after the other, while the training continues.

training: wait for the previous write -> snapshot -> submit -> next step        thread: write, fsync, rename, pointer
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
    """A copy, in host memory, of a tree of dicts, lists and tensors; the next step does not change it."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(snapshot(value) for value in tree)
    return tree


class Saver:
    """Context manager around the writing thread. One checkpoint is written at a time."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")  # joined when the interpreter exits
        self._writing: Future[None] | None = None

    def save(
        self, name: str, state: Mapping[str, Any], model: Mapping[str, Tensor], optimizer: Mapping[str, Any] | None,
        ema: Mapping[str, Tensor] | None,
    ) -> None:  # fmt: skip
        """Takes a snapshot and starts to write it as checkpoint `name`; `state["best"]` lists the pointers to move.

        Waits for the previous write, and raises the error of that write.
        """
        model, optimizer, ema = snapshot(model), snapshot(optimizer), snapshot(ema)

        def write() -> None:
            _refuse_not_finite(model, state["step"])
            self._finish(self._checkpoints.save(model, optimizer, state, name, ema), state)

        self.submit(write)

    def save_copy(self, source: str, suffix: str, state: Mapping[str, Any]) -> None:
        """As `save`: writes the weights of checkpoint `source` with another state, as checkpoint source + suffix."""
        self.submit(lambda: self._finish(self._checkpoints.save_copy(source, state, source + suffix), state))

    def _finish(self, path: Path, state: Mapping[str, Any]) -> None:
        for pointer in state["best"]:
            self._checkpoints.move_pointer(pointer, path)
        self._checkpoints.prune()

    def submit(self, write: Callable[[], None]) -> None:
        """Starts a write when the previous one is done. Raises the error of the previous write."""
        self.wait()
        self._writing = self._pool.submit(write)

    def wait(self) -> None:
        """Waits until nothing is being written. Raises the error of the write, once."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits. The error of a write is raised unless another error already ends the run."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise

    @property
    def failed(self) -> bool:
        """Whether the last write failed; `wait` then raises its error."""
        return bool(self._writing and self._writing.done() and self._writing.exception())


def _refuse_not_finite(model: Mapping[str, Tensor], step: int) -> None:
    """An update may make weights infinite or NaN one step before the loss shows it. Such weights are never saved."""
    broken = [name for name, value in model.items() if not value.isfinite().all()]
    if broken:
        raise UsageError(
            f"step {step}: {broken[0]} has infinite or NaN values; the checkpoint before it is kept: "
            "use a lower --set train.lr=... or --set train.clip_grad_norm=1 in a new --run"
        )
