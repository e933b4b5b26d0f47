"""The notes of a run about its arithmetic at the start: TF32, and a precision that this processor computes slowly."""

from __future__ import annotations

import platform

import torch

from kws.config import TrainConfig

_TF32_SINCE, _BF16_SINCE = (8, 0), (8, 0)
"""Compute capability of the first GPUs (Ampere) with these number formats."""


def precision_notes(settings: TrainConfig, device: torch.device) -> list[str]:
    """Lines for the user, each with what to type where something can be done."""
    precision = settings.precision
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if precision == "bf16" and capability < _BF16_SINCE:
            return [_slow(precision, "GPU", "fp16")]
        if precision == "fp32" and capability >= _TF32_SINCE:
            return ["train.precision=fp32: the convolutions of training are computed in TF32, evaluation is not"]
        return []
    return [] if precision == "fp32" or _computes(precision) else [_slow(precision, "CPU", "fp32")]


def _slow(precision: str, processor: str, instead: str) -> str:
    return (
        f"train.precision={precision}: this {processor} has no {precision} arithmetic and emulates it, up to ten times "
        f"slower; --set train.precision={instead} is faster here, but another recipe (a run that has begun needs "
        "--set train.allow_change=precision too)"
    )


def _computes(precision: str) -> bool:
    """Whether this CPU has instructions for bf16 or fp16."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        check = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}[precision]
        return bool(getattr(torch.ops.mkldnn, check)())
    names = {"bf16": ("_is_avx512_bf16_supported", "_is_amx_tile_supported"), "fp16": ("_is_amx_fp16_supported",)}
    return any(getattr(torch.cpu, name, lambda: False)() for name in names[precision])  # not in all versions of torch
