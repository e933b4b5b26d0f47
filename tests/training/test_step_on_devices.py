"""Whole steps of a real network on the CPU and, where there is one, on a GPU: the same loss, bits, and no waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kws.audio.features import Features
from kws.config import Config, DataConfig, ModelConfig, TrainConfig, preset
from kws.data.index import Index
from kws.data.reader import Reader
from kws.data.stream import SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed.arithmetic import set_up_gpu_arithmetic
from kws.distributed.ranks import Ranks
from kws.training.distillation import Teachers
from kws.training.network import build_network
from kws.training.optim import build_optimizer
from kws.training.step import PlannedStep, Stepper, Votes
from tests.conftest import require
from tests.training.one_process import OneProcess

SLOTS, MICRO = 2, 8


def losses(corpus: Index, device: torch.device, steps: int = 4, chain: str = "classic", **train: Any) -> list[float]:
    """Mean losses of a few steps."""
    return [result.loss for result in results(corpus, device, steps, chain, **train)]


def results(corpus: Index, device: torch.device, steps: int, chain: str, **train: Any) -> Iterator[Any]:
    settings = TrainConfig(global_batch=SLOTS * MICRO, micro_batch=MICRO, lr=1e-3, warmup_epochs=0.0, **train)
    frontend = preset(chain, features="mel32", mixup_probability=0.5)
    data, model = DataConfig(shards=str(corpus.root)), ModelConfig(name="tc_resnet8")
    training_set = TrainingSet(Config(data=data, frontend=frontend, model=model, train=settings))
    features = Features(frontend.features).to(device)
    classes, shape = len(training_set.task.classes), features.shape(training_set.samples)
    network = build_network(training_set.config, classes, shape, device)
    optimizer = build_optimizer(network, settings)
    stepper = Stepper(
        training_set, network, features, optimizer, Ranks(0, 1, device, 1, OneProcess()),
        teachers=Teachers.load(training_set, device),
    )  # fmt: skip
    reader = SlotReader(
        Reader(training_set.index, "train"), training_set.task.class_of, training_set.excerpt,
        training_set.read_samples, device=device,
    )  # fmt: skip
    batches = stream_batches(lambda: training_set.plan(0).rank_slots(0, 1), reader)
    for step in range(steps):
        yield stepper.step(PlannedStep(step, 0, SLOTS * MICRO, last=step + 1 == steps), batches, Votes())


@pytest.mark.gpu
@pytest.mark.parametrize("chain", ["none", "classic", "modern"])
def test_the_loss_of_a_step_on_a_gpu_is_that_on_the_cpu(tones: Index, chain: str) -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no GPU")
    on_cpu, on_gpu = (losses(tones, torch.device(kind), 1, chain) for kind in ("cpu", "cuda"))
    # Dropout, whose random numbers differ between devices, is part of the network: hence not to 1e-4.
    assert on_gpu == pytest.approx(on_cpu, rel=0.2)


@pytest.mark.parametrize("reduction", ["fast", "exact"])
def test_the_same_steps_have_the_same_bits(tones: Index, device: torch.device, reduction: str) -> None:
    if device.type == "cuda":
        set_up_gpu_arithmetic(deterministic=True)
    try:
        first, second = (losses(tones, device, reduction=reduction) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert first == second


@pytest.mark.xdist_group("tones_run")
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_with_a_teacher_the_same_steps_have_the_same_bits(
    tones: Index, tones_run: Path, device: torch.device, precision: str
) -> None:
    if device.type == "cuda":
        set_up_gpu_arithmetic(deterministic=True)
    settings = {"reduction": "exact", "precision": precision, "teacher": (str(tones_run),)}
    try:
        first, second = (losses(tones, device, 2, "none", **settings) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert first == second


@pytest.mark.gpu
@pytest.mark.xdist_group("tones_run")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_operation_of_a_step_with_a_teacher_waits_for_the_gpu(tones: Index, tones_run: Path, precision: str) -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no GPU")
    train = {"teacher": (str(tones_run),), "precision": precision}
    steps = results(tones, torch.device("cuda"), 4, "modern", **train)
    next(steps), next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "train", [{}, {"reduction": "exact"}, {"precision": "bf16", "channels_last": True}, {"ema": 0.9}]
)
@pytest.mark.parametrize("chain", ["classic", "modern"])
def test_no_operation_of_a_step_waits_for_the_gpu(tones: Index, chain: str, train: dict[str, Any]) -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no GPU")
    steps = results(tones, torch.device("cuda"), 4, chain, **train)
    next(steps), next(steps)  # allocations and plans of cuFFT
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
