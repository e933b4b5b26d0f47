"""Writes checkpoints in a thread, one after the other, while training goes on.

training: snapshot -> submit, or wait for the write before -> next step          thread: write, fsync, rename, pointer
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


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

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")  # joined when the interpreter ends
        self._writing: Future[None] | None = None

    def submit(self, write: Callable[[], Any]) -> None:
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
