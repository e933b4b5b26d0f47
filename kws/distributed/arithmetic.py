"""How this process computes on a GPU: with the same bits each time in training, in full float32 in evaluation.

By default cuDNN and cuBLAS may add in another order each time, and cuDNN rounds the inputs of float32 convolutions to
TF32 (10 bits of mantissa). CPUs do neither: there, nothing in this module changes a bit.

Sources: torch.use_deterministic_algorithms; PyTorch notes, "Reproducibility" and "TensorFloat-32".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from kws.errors import UsageError

_WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS is deterministic."""


def set_up_gpu_arithmetic(deterministic: bool) -> None:
    """Sets up this process for training on a GPU.

    Must be called before the first use of CUDA, and before the process group is initialised: torch then also switches
    off NCCL's all-reduce inside NVSwitches (NVLS), which is not deterministic. Raises UsageError where
    CUBLAS_WORKSPACE_CONFIG has a value with which cuBLAS is not deterministic.
    """
    # The default; TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which some containers set, would compute the mel bands in TF32.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    if deterministic:
        _make_deterministic()


def _make_deterministic() -> None:
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACES[0])
    if workspace not in _WORKSPACES:
        raise UsageError(
            f"CUBLAS_WORKSPACE_CONFIG: {workspace} is set; train.deterministic and train.reduction = exact need "
            f"{' or '.join(_WORKSPACES)}: unset it"
        )
    torch.backends.cudnn.deterministic = True
    # Not warn_only: the backward pass of attention would then stay nondeterministic (torch, attention_backward.cu).
    torch.use_deterministic_algorithms(True)
    # Would fill every new tensor, which takes time: kws reads none before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 convolutions and products are computed without TF32, and convolutions deterministically.
    Afterwards, all is as before.

    These are settings of the process: do not train in another thread meanwhile.
    """
    # Only the present names of these settings: torch raises where a program mixes them with those before 2.9.
    cudnn: Any = torch.backends.cudnn
    operators = (cudnn.conv, torch.backends.cuda.matmul)
    precisions, deterministic = [operator.fp32_precision for operator in operators], cudnn.deterministic
    try:
        cudnn.deterministic = True
        for operator in operators:
            operator.fp32_precision = "ieee"
        yield
    finally:
        cudnn.deterministic = deterministic
        for operator, precision in zip(operators, precisions, strict=True):
            operator.fp32_precision = precision
