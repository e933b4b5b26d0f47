from __future__ import annotations

import pytest
import torch

from kws.distributed.device import choose_device, probe
from kws.distributed.gpus import GpuState
from kws.errors import UsageError

NONE = GpuState(cuda="13.0")
EIGHT = GpuState(usable=8, cuda="13.0")
ONE = GpuState(usable=1, cuda="13.0")
TOO_OLD = GpuState(present=2, cuda="13.0", reason="The NVIDIA driver on your system is too old (found version 11040)")
SICK = GpuState(present=1, cuda="13.0", reason="Unexpected error from cudaGetDeviceCount(): Error 802")
CPU_WHEEL = GpuState(present=1)


@pytest.mark.parametrize(
    ("setting", "environ", "gpus", "device"),
    [
        ("cpu", {}, EIGHT, "cpu"),
        ("auto", {}, NONE, "cpu"),
        ("auto", {}, GpuState(), "cpu"),
        ("auto", {}, EIGHT, "cuda:0"),
        ("cuda", {"LOCAL_RANK": "3"}, EIGHT, "cuda:3"),
        ("auto", {"LOCAL_RANK": "3"}, ONE, "cuda:0"),  # --gpus-per-task: each task sees its own GPU as number 0
        ("auto", {"LOCAL_RANK": "9"}, EIGHT, "cuda:1"),
        ("auto", {"CUDA_VISIBLE_DEVICES": "-1,-1"}, EIGHT, "cpu"),  # launch/cpu2.yaml
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, CPU_WHEEL, "cpu"),
        ("auto", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, SICK, "cpu"),
        ("auto", {"ACCELERATE_USE_CPU": "True"}, EIGHT, "cpu"),  # launch/cpu1.yaml
        ("auto", {"ACCELERATE_USE_CPU": "False", "CUDA_VISIBLE_DEVICES": "2"}, ONE, "cuda:0"),
    ],
)
def test_the_device_follows_setting_environment_and_gpus(
    setting: str, environ: dict[str, str], gpus: GpuState, device: str
) -> None:
    assert choose_device(setting, environ, gpus) == torch.device(device)


@pytest.mark.parametrize("setting", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("gpus", "named"),
    [
        (TOO_OLD, r"2 GPUs .*11040.*update the driver"),
        (SICK, r"1 GPU .*Error 802.*nvidia-smi"),
        (CPU_WHEEL, r"without CUDA: install"),
        (GpuState(present=1, cuda="13.0", forbidden="/dev/nvidia0"), r"/dev/nvidia0.*group"),
    ],
)
def test_a_gpu_that_is_there_but_unusable_is_never_replaced_by_the_cpu(
    setting: str, gpus: GpuState, named: str
) -> None:
    with pytest.raises(UsageError, match=rf"train\.device.*{named}.*--set train\.device=cpu"):
        choose_device(setting, {}, gpus)


def test_a_visible_device_that_does_not_exist_is_named() -> None:
    gpus = GpuState(present=4, cuda="13.0", reason="No CUDA GPUs are available")
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=7"):
        choose_device("auto", {"CUDA_VISIBLE_DEVICES": "7"}, gpus)


@pytest.mark.parametrize(
    ("environ", "gpus", "named"),
    [
        ({}, NONE, "no GPU"),
        ({}, GpuState(), "without CUDA"),
        ({"ACCELERATE_USE_CPU": "true"}, EIGHT, "ACCELERATE_USE_CPU"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, EIGHT, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_cuda_without_a_gpu_is_a_usage_error(environ: dict[str, str], gpus: GpuState, named: str) -> None:
    with pytest.raises(UsageError, match=rf"train\.device: cuda.*{named}.*--set train\.device=cpu"):
        choose_device("cuda", environ, gpus)


def test_the_cpu_needs_no_probe() -> None:
    assert probe(torch.device("cpu")) == ""
