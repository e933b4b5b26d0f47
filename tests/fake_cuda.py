"""A CUDA device without a GPU, for tests: tensors that have a shape, a type and the device "cuda", but no values.

FakeTensorMode runs each operation on such tensors without computing it, and raises where devices are mixed or where a
value is needed on the host (.item(), .tolist(), bool(tensor), nonzero). `fake_cuda` adds what it lets pass: copies
between host and device. Those that do not make the host wait are counted, all others raise HostWaitError.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from kws import transfers

DEVICE = torch.device("cuda:0")
real_tensors = _disable_current_modes
"""Within this block, inside `fake_cuda`, tensors on the host have values: for what reads clips."""
_ATEN = torch.ops.aten
_COPIES = (_ATEN._to_copy.default, _ATEN.copy_.default)
_FUSED = (_ATEN._fused_sgd_.default, _ATEN._fused_adamw_.default)


class HostWaitError(AssertionError):
    """An operation that makes the host wait for the device."""


@dataclasses.dataclass
class Copies:
    """Copies between host and device that the host did not wait for: bytes of each."""

    uploads: list[int] = dataclasses.field(default_factory=list)
    downloads: list[int] = dataclasses.field(default_factory=list)
    may_wait: bool = False
    """Whether the host may wait for uploads: at the start, such as while a checkpoint is loaded."""


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch, autocast: bool = False) -> Iterator[Copies]:
    """Within the block, tensors on DEVICE can be made and used. Yields the copies that were made.

    `autocast`: with mixed precision, for which torch must be told the device; so nothing can be differentiated.
    """
    _set_device_guard()
    copies, numpy = Copies(), Tensor.numpy

    def to_numpy(values: Tensor, **options: Any) -> Any:
        """Of tensors on the host, which FakeTensorMode would take for its own."""
        assert not isinstance(values, FakeTensor)
        with real_tensors():
            return numpy(values, **options)

    def start_download(values: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Of kws.transfers, the only way from the device to the host. Every value is 1."""
        assert values.device == DEVICE
        copies.downloads.append(values.nbytes)
        with real_tensors():
            return torch.ones(values.shape, dtype=values.dtype), lambda: None

    monkeypatch.setattr(Tensor, "numpy", to_numpy)
    monkeypatch.setattr(transfers, "start_download", start_download)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    if autocast:
        monkeypatch.setattr(torch.autograd, "backward", lambda loss: None)
    with FakeTensorMode(allow_non_fake_inputs=True), _Watch(copies, autocast):
        yield copies


def to_fake_cuda(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on DEVICE; used inside `fake_cuda`."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(_on_device(value), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = _on_device(value)
    return module


def _on_device(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)


class _Watch(TorchDispatchMode):
    """Counts copies between devices, and refuses those for which the host waits."""

    def __init__(self, copies: Copies, autocast: bool) -> None:
        super().__init__()
        self._copies, self._autocast, self._pinned = copies, autocast, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == torch.device("meta"):
            kwargs["device"] = DEVICE  # the answer to the question below comes back
        if func is torch.ops.prim.device.default:
            # Only C++ asks so. Autograd would look for streams of a CUDA device, and there are none.
            hidden = args[0].device == DEVICE and not self._autocast
            return torch.device("meta") if hidden else args[0].device
        if func is _ATEN._pin_memory.default:
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        if func._can_decompose():  # in inference mode also operations that consist of others, such as `to`, come here
            with self:
                return func.decompose(*args, **kwargs)
        if func in _FUSED:
            return _check_layouts(zip(*(tensors for tensors in args if tensors), strict=True))
        if func not in _COPIES:
            _check_devices(func, args, kwargs)
            return func(*args, **kwargs)
        copy = func(*args, **kwargs)
        source = args[0] if func is _ATEN._to_copy.default else args[1]
        self._check_copy(source, copy, kwargs.get("non_blocking", args[2:3] == (True,)))
        return copy

    def _check_copy(self, source: Tensor, copy: Tensor, non_blocking: bool) -> None:
        if source.device.type == copy.device.type:
            return
        pinned = any(source is tensor for tensor in self._pinned)
        if copy.device.type == "cpu" or not ((non_blocking and pinned) or self._copies.may_wait):
            raise HostWaitError(f"a copy of {tuple(source.shape)} from {source.device} to {copy.device}")
        self._copies.uploads.append(source.nbytes)


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    """Refuses an operation on tensors of both devices, such as an index on the host. Only numbers () may be there."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    devices = {tensor.device for tensor in tensors if tensor.device == DEVICE or tensor.dim()}
    if len(devices) > 1:
        raise HostWaitError(f"{func} on tensors of {devices}")


def _check_layouts(together: Iterable[tuple[Tensor, ...]]) -> None:
    """What the kernels of fused optimizers require of a parameter, its gradient and its state: one device and layout.
    (FakeTensorMode does not know all of these kernels.)"""
    for tensors in together:
        assert all(tensor.device == DEVICE for tensor in tensors)
        assert len({(tensor.shape, tensor.stride()) for tensor in tensors if tensor.dim()}) <= 1, "layouts differ"


def _set_device_guard() -> None:
    """Lets a torch without CUDA select a CUDA device, which does nothing. (FakeTensorMode does the same where torch has
    CUDA and the machine has no GPU.)"""
    if torch.version.cuda:
        return
    library = next(Path(torch.__file__).parent.glob("lib/libc10.*"))
    guards = (ctypes.c_void_p * 20).in_dll(ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # numbers of c10::DeviceType; the guard of "meta" does nothing
    guards[cuda] = guards[cuda] or guards[meta]
