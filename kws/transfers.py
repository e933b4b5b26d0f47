"""Transfers between host and device: what a training step and an evaluation send and fetch goes through here.

    parameters of a batch on the host -> one buffer, pinned -> one copy that the host does not wait for -> typed views
    results on the device -> one copy that the host does not wait for -> an event -> `wait`, when they are needed

A plain `.to(device)` from unpinned memory, torch.tensor(..., device=...) and .item() each make the host wait until the
device has finished everything submitted before. On a CPU nothing is copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def to_device(parameters: T, device: torch.device) -> T:
    """The same structure with its tensors on `device`, all of them copied at once; the host does not wait.

    `parameters`: a tensor, or dataclasses, tuples and lists of tensors on the host and other values, which are kept.
    The tensors may be changed or freed as soon as this returns, but a pinned tensor that is alone: it must stay as it
    is until the device has copied it.
    """
    if device.type == "cpu":
        return parameters
    host = tensors_of(parameters)
    if not host:
        return parameters
    here = iter([upload(host[0], device)] if len(host) == 1 else _upload_packed(host, device))
    copied: T = replace_tensors(parameters, lambda _: next(here))
    return copied


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, which the host does not wait for. Unpinned memory is copied into pinned memory first."""
    pinned = host if host.is_pinned() else host.pin_memory()
    return pinned.to(device, non_blocking=True)


class Download:
    """A tensor on its way to the host. The copy starts at once; `wait` returns it when it has arrived."""

    def __init__(self, values: Tensor) -> None:
        self._host, self._arrived = start_download(values)

    def wait(self) -> Tensor:
        """The tensor on the host."""
        self._arrived()
        return self._host


def start_download(values: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The tensor on the host, and a function that returns when its values are there."""
    host = values.to("cpu", non_blocking=True)  # pinned, where it comes from a GPU
    if values.device.type != "cuda":
        return host, lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(values.device))
    return host, event.synchronize


def _upload_packed(host: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copies of the tensors, as views of one buffer on the device."""
    # Wide types first, so that each section begins at a multiple of its item size.
    kinds = sorted({tensor.dtype for tensor in host}, key=lambda kind: (-kind.itemsize, str(kind)))
    sections = [[tensor.flatten() for tensor in host if tensor.dtype == kind] for kind in kinds]
    buffer = torch.cat([torch.cat(section).view(torch.uint8) for section in sections])
    parts = torch.split(upload(buffer, device), [sum(part.nbytes for part in section) for section in sections])
    views = {
        kind: iter(torch.split(part.view(kind), [len(tensor) for tensor in section]))
        for kind, part, section in zip(kinds, parts, sections, strict=True)
    }
    return [next(views[tensor.dtype]).view(tensor.shape) for tensor in host]


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of a structure (see `replace_tensors`), in order."""
    found: list[Tensor] = []
    replace_tensors(tree, found.append)
    return found


def replace_tensors(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    """The structure with `function` applied to its tensors, in order: a tensor, or dataclasses, tuples and lists of
    tensors and other values, which are kept."""
    if isinstance(tree, Tensor):
        return function(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = dataclasses.fields(tree)
        return type(tree)(*(replace_tensors(getattr(tree, field.name), function) for field in fields))
    if isinstance(tree, (list, tuple)):
        return type(tree)(replace_tensors(value, function) for value in tree)
    return tree
