"""Checkpoints: each is a folder that is written under a partial name, fsynced and renamed; then a pointer moves to it.

    RUN/checkpoints/step-00000384/            model.safetensors  optimizer.pt  state.json  manifest.json
                                              ema.safetensors, if the run averages its weights; under DeepSpeed's ZeRO
                                              zero/, one file per rank, instead of optimizer.pt
    RUN/checkpoints/step-00000384-evaluated/  the same weights (hard links); state.json includes the epoch's evaluation
    RUN/checkpoints/{last,best_accuracy,best_loss,best_detection}    pointers: one line, the name of a folder

A checkpoint becomes visible when its folder is renamed. A resumed run uses the newest one; other commands use those
that the pointers name. The manifest holds the sha256 of every file: a damaged checkpoint is detected and skipped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from kws import files
from kws.errors import UsageError, cannot_write, unreadable, user_message

POINTERS = ("last", "best_accuracy", "best_loss", "best_detection")
_MANIFEST, _SHARDS = "manifest.json", "zero"
_REQUIRED = ("model.safetensors", "state.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint: its folder and its state.json."""

    path: Path
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def model(self) -> dict[str, torch.Tensor]:
        """Weights and buffers by name."""
        return safetensors.torch.load_file(self.path / "model.safetensors")

    def ema(self) -> dict[str, torch.Tensor] | None:
        """Averaged weights, with the network's buffers; None if the run does not average."""
        path = self.path / "ema.safetensors"
        return safetensors.torch.load_file(path) if path.is_file() else None

    def sha256(self, file: str) -> str:
        """Of one of its files, from the manifest."""
        return str(_read_json(self.path / _MANIFEST)[file])

    @property
    def optimizer_shards(self) -> Path:
        """Folder of the ranks' optimizer shards, under ZeRO."""
        return self.path / _SHARDS

    def optimizer(self) -> dict[str, Any]:
        """State dict of the optimizer, on the CPU."""
        state: dict[str, Any] = torch.load(self.path / "optimizer.pt", weights_only=True, map_location="cpu")
        return state


class Checkpoints:
    """All checkpoints of a run. `warn` is called with a message about each damaged checkpoint that is skipped."""

    def __init__(self, run: Path, keep: int = 3, warn: Callable[[str], None] = lambda text: None) -> None:
        self._root, self._keep, self._warn = run / "checkpoints", keep, warn

    def optimizer_shards(self, name: str) -> Path:
        """Folder for the ranks' optimizer shards of checkpoint `name`, written before `save`, which moves it."""
        return self._root / f".{name}-parts.partial" / _SHARDS

    def save(
        self, model: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any] | None, state: Mapping[str, Any],
        name: str, ema: Mapping[str, torch.Tensor] | None = None,
    ) -> Path:  # fmt: skip
        """Writes checkpoint `name` and points `last` at it. Returns its folder.

        If `optimizer` is None, the folder of `optimizer_shards(name)` is moved into it. Raises UsageError if the disk
        refuses.
        """

        def write(folder: Path) -> None:
            _save_tensors(model, folder / "model.safetensors")
            if ema is not None:
                _save_tensors(ema, folder / "ema.safetensors")
            if optimizer is None:
                self.optimizer_shards(name).replace(folder / _SHARDS)
            else:
                torch.save(optimizer, folder / "optimizer.pt")

        return self._publish(name, write, state)

    def save_copy(self, source: str, state: Mapping[str, Any], name: str) -> Path:
        """Writes checkpoint `name` with the files of checkpoint `source` and another state. Returns its folder."""

        def link_files(folder: Path) -> None:
            for file in _list_files(self._root / source):
                if file not in ("state.json", _MANIFEST):
                    (folder / file).parent.mkdir(exist_ok=True)
                    _link_or_copy(self._root / source / file, folder / file)

        return self._publish(name, link_files, state)

    def move_pointer(self, pointer: str, path: Path) -> None:
        """Points `pointer` at the checkpoint in folder `path`, atomically and durably."""
        files.write_text(self._root / pointer, path.name + "\n", durable=True)

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None; warns about every damaged one that is newer."""
        for path in sorted(self._folders(), reverse=True):
            damage = _find_damage(path)
            if damage is None:
                return Checkpoint(path, _read_json(path / "state.json"))
            self._warn(f"{path}: damaged checkpoint ({damage}); using the one before it")
        return None

    def find(self, name: str) -> Checkpoint:
        """The checkpoint of a pointer or folder name. Raises UsageError if it does not exist or is damaged."""
        pointer = self._root / name
        path = self._root / _read_pointer(pointer) if pointer.is_file() else pointer
        if not path.is_dir():
            raise UsageError(
                f"{self._root}: no checkpoint {name!r}; available: {self._list_names()}; choose with --checkpoint"
            )
        damage = _find_damage(path)
        if damage is not None:
            raise UsageError(f"{path}: damaged checkpoint ({damage}); choose with --checkpoint: {self._list_names()}")
        return Checkpoint(path, _read_json(path / "state.json"))

    def prune(self) -> None:
        """Removes old checkpoints: keeps those of the newest `keep` steps and those that a pointer names."""
        pointed_at = {_read_pointer(self._root / pointer) for pointer in POINTERS if (self._root / pointer).is_file()}
        # By step: a checkpoint and the one after its evaluation are two names of the same weights.
        newest = sorted({_step_digits(path) for path in self._folders()}, reverse=True)[: self._keep]
        for path in self._folders():
            if path.name not in pointed_at and _step_digits(path) not in newest:
                shutil.rmtree(path, ignore_errors=True)
        for path in self._root.glob(".step-*.partial"):
            shutil.rmtree(path, ignore_errors=True)
        for pointer in POINTERS:
            for path in self._root.glob(f".{pointer}.*.partial"):
                path.unlink(missing_ok=True)  # from a kill in the middle of move_pointer

    def _list_names(self) -> str:
        return ", ".join(sorted(path.name for path in self._root.glob("[!.]*"))) or "none"

    def _folders(self) -> list[Path]:
        found = (self._root / name for name in files.names_in(self._root) if name.startswith("step-"))
        return [path for path in found if path.is_dir()]

    def _publish(self, name: str, write: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
        """Writes a checkpoint's folder: files, state, manifest; fsync; rename; then moves `last`."""
        partial, final = self._root / f".{name}.partial", self._root / name
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            files.write_json(partial / "state.json", state)
            files.write_json(partial / _MANIFEST, {file: files.sha256(partial / file) for file in _list_files(partial)})
            for path in (*partial.rglob("*"), partial):
                files.fsync(path)
            shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step, skipped when the run resumed
            partial.replace(final)
            self.move_pointer("last", final)
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            fix = "" if user_message(error) else "free some space, then run the same command again"
            raise UsageError(cannot_write(f"{final}: checkpoint", error, fix)) from error
        return final


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    # safetensors refuses tensors that share memory (tied weights), so those are copied.
    on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    shared = len({value.untyped_storage().data_ptr() for value in on_cpu.values()}) < len(on_cpu)
    safetensors.torch.save_file({key: value.clone() for key, value in on_cpu.items()} if shared else on_cpu, path)


def _find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None. Raises UsageError where they cannot be read: they may be whole,
    and an older checkpoint would lose steps."""
    try:
        manifest = _read_json(path / _MANIFEST)
        shards = [file for file in _list_files(path) if file.startswith(f"{_SHARDS}/")]
        required = dict.fromkeys((*_REQUIRED, *(shards or ["optimizer.pt"])))
        for file, sha256 in {**required, **manifest}.items():
            if files.sha256(path / file) != sha256:
                return f"{file} differs from the manifest"
        _read_json(path / "state.json")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, TypeError) as error:
        return str(error)
    except OSError as error:
        raise unreadable(error, path) from error
    return None


def _list_files(folder: Path) -> list[str]:
    """All files in the folder and its subfolders, as paths relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _read_pointer(pointer: Path) -> str:
    """Name of the folder that a pointer names; of a damaged pointer, a name that does not exist."""
    return pointer.read_text(encoding="utf-8", errors="replace").strip().replace("\0", "?") or "?"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _step_digits(path: Path) -> str:
    """step-00000384-evaluated -> 00000384"""
    return path.name.split("-")[1]
