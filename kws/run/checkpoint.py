"""Checkpoints: a folder each, written under a partial name, fsynced, renamed; then a pointer is moved.

    RUN/checkpoints/step-00000384/            model.safetensors  optimizer.pt  state.json  manifest.json
                                              and ema.safetensors, where the run averages its weights; zero/ instead of
                                              optimizer.pt, a file a rank, where DeepSpeed has the optimizer (ZeRO)
    RUN/checkpoints/step-00000384-evaluated/  the same weights (hard links), with the epoch's evaluation in state.json
    RUN/checkpoints/{last,best_accuracy,best_loss}    one line: the folder's name

The manifest holds the sha256 of every file: a broken or half-written checkpoint is noticed, and the one before it used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from kws.errors import UsageError

POINTERS = ("last", "best_accuracy", "best_loss")
_MANIFEST, _PARTS = "manifest.json", "zero"
_FILES = ("model.safetensors", "state.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, and `state` as it was saved."""

    path: Path
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.path.name

    def model(self) -> dict[str, torch.Tensor]:
        """Weights and buffers by name."""
        return safetensors.torch.load_file(self.path / "model.safetensors")

    def ema(self) -> dict[str, torch.Tensor] | None:
        """Averaged weights with the buffers, where the run has them."""
        path = self.path / "ema.safetensors"
        return safetensors.torch.load_file(path) if path.is_file() else None

    @property
    def optimizer_shards(self) -> Path:
        """Folder of what each rank saved of the optimizer, under ZeRO."""
        return self.path / _PARTS

    def optimizer(self) -> dict[str, Any]:
        """The optimizer's state dict."""
        state: dict[str, Any] = torch.load(self.path / "optimizer.pt", weights_only=True, map_location="cpu")
        return state


class Checkpoints:
    """The checkpoints of a run. `say` is told what a person should know, such as a broken one passed over."""

    def __init__(self, run: Path, keep: int = 3, say: Callable[[str], None] = lambda text: None) -> None:
        self._root, self._keep, self._say = run / "checkpoints", keep, say

    def optimizer_shards(self, name: str) -> Path:
        """Where the ranks put what only they have, before checkpoint `name` is saved, which takes it in."""
        return self._root / f".{name}-parts.partial" / _PARTS

    def save(
        self, model: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any] | None, state: Mapping[str, Any],
        name: str, ema: Mapping[str, torch.Tensor] | None = None,
    ) -> Path:  # fmt: skip
        """Writes a new checkpoint and points `last` at it. Without `optimizer`, that of the ranks' `parts`. Raises
        UsageError where the disk refuses."""

        def write(folder: Path) -> None:
            _save_tensors(model, folder / "model.safetensors")
            if ema is not None:
                _save_tensors(ema, folder / "ema.safetensors")
            if optimizer is None:
                self.optimizer_shards(name).replace(folder / _PARTS)
            else:
                torch.save(optimizer, folder / "optimizer.pt")

        return self._publish(name, write, state)

    def save_copy(self, source: str, state: Mapping[str, Any], name: str) -> Path:
        """The weights of checkpoint `source` with another state."""

        def link(folder: Path) -> None:
            for name in _files(self._root / source):
                if name not in ("state.json", _MANIFEST):
                    (folder / name).parent.mkdir(exist_ok=True)
                    _link_or_copy(self._root / source / name, folder / name)

        return self._publish(name, link, state)

    def move_pointer(self, pointer: str, path: Path) -> None:
        """Moves a pointer, whole or not at all."""
        partial = self._root / f".{pointer}.partial"
        partial.write_text(path.name + "\n")
        _fsync(partial)
        partial.replace(self._root / pointer)
        _fsync(self._root)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; broken ones before it are passed over and said."""
        for path in sorted(self._folders(), reverse=True):
            fault = _fault(path)
            if fault is None:
                return Checkpoint(path, _json(path / "state.json"))
            self._say(f"{path}: broken checkpoint ({fault}); using the one before it")
        return None

    def find(self, name: str) -> Checkpoint:
        """By pointer or folder name. Raises UsageError where there is none or it is broken."""
        pointer = self._root / name
        path = self._root / _target(pointer) if pointer.is_file() else pointer
        if not path.is_dir():
            raise UsageError(
                f"{self._root}: no checkpoint {name!r}; there are: {self._there()}; choose with --checkpoint"
            )
        fault = _fault(path)
        if fault is not None:
            raise UsageError(f"{path}: broken checkpoint ({fault}); use another with --checkpoint: {self._there()}")
        return Checkpoint(path, _json(path / "state.json"))

    def prune(self) -> None:
        """Keeps those of the newest steps and those that a pointer names."""
        named = {_target(self._root / pointer) for pointer in POINTERS if (self._root / pointer).is_file()}
        # By step: a checkpoint and the one after its evaluation are two names of the same weights.
        newest = sorted({_step(path) for path in self._folders()}, reverse=True)[: self._keep]
        for path in self._folders():
            if path.name not in named and _step(path) not in newest:
                shutil.rmtree(path, ignore_errors=True)
        for path in self._root.glob(".step-*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def _there(self) -> str:
        return ", ".join(sorted(path.name for path in self._root.glob("[!.]*"))) or "none"

    def _folders(self) -> list[Path]:
        return [path for path in self._root.glob("step-*") if path.is_dir()]

    def _publish(self, name: str, write: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
        partial, final = self._root / f".{name}.partial", self._root / name
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            (partial / "state.json").write_text(json.dumps(state, indent=1))
            sums = {name: _sha256(partial / name) for name in _files(partial)}
            (partial / _MANIFEST).write_text(json.dumps(sums, indent=1))
            for path in (*partial.rglob("*"), partial):
                _fsync(path)
            shutil.rmtree(final, ignore_errors=True)  # a broken one of the same step, passed over at the resume
            partial.replace(final)
            self.move_pointer("last", final)
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UsageError(
                f"{final}: checkpoint cannot be written ({error}); make room, then run the same again"
            ) from error
        return final


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    # Copies where tensors share memory (tied weights), which safetensors refuses.
    own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    shared = len({value.untyped_storage().data_ptr() for value in own.values()}) < len(own)
    safetensors.torch.save_file({key: value.clone() for key, value in own.items()} if shared else own, path)


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        sums = _json(path / _MANIFEST)
        parts = [name for name in _files(path) if name.startswith(f"{_PARTS}/")]
        for name, wanted in {**dict.fromkeys((*_FILES, *(parts or ["optimizer.pt"]))), **sums}.items():
            if _sha256(path / name) != wanted:
                return f"{name} differs from the manifest"
        _json(path / "state.json")
    except (OSError, ValueError, TypeError) as error:
        return str(error)
    return None


def _files(folder: Path) -> list[str]:
    """Relative to it, also those in folders below."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _target(pointer: Path) -> str:
    """The folder that a pointer names; a damaged pointer names one that is not there."""
    return pointer.read_text(errors="replace").strip().replace("\0", "?") or "?"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _step(path: Path) -> str:
    """step-00000384-evaluated -> 00000384"""
    return path.name.split("-")[1]
