"""A training step on a GPU that is not there (tests/fake_cuda.py): no mixing of devices, no wait but the one a step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kws.audio.features import Features
from kws.config import Config, DataConfig, FrontEndConfig, TrainConfig, preset
from kws.data.index import Index
from kws.data.reader import Reader
from kws.data.stream import SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.training import slot_inputs
from kws.training.distillation import Teachers
from kws.training.optim import build_optimizer, load_state
from kws.training.step import PlannedStep, Stepper, Votes
from tests.fake_cuda import DEVICE, Copies, HostWaitError, fake_cuda, to_fake_cuda
from tests.training.one_process import OneProcess

pytestmark = pytest.mark.xdist_group("device")  # torch imports its compiler for fake tensors: once
SLOTS, MICRO = 2, 6


class Network(nn.Module):
    """Convolution, batch norm, dropout and a linear layer."""

    def __init__(self, classes: int, channels_last: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(4, 4, 3)]
        self.body, self.head = nn.Sequential(*convolutions), nn.Linear(4, classes)
        if channels_last:
            super().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def to(self, *_: Any, **__: Any) -> Network:
        """Done above: parameters without values cannot be replaced."""
        return self

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(features).mean(dim=(2, 3)))
        return logits


def run_steps(
    corpus: Index, monkeypatch: pytest.MonkeyPatch, frontend: FrontEndConfig, steps: int = 2, **train: Any
) -> list[Copies]:
    """The copies of each of several steps on the fake device. train: with `teacher`, also of its networks."""
    settings = TrainConfig(global_batch=SLOTS * MICRO, micro_batch=MICRO, cuda_graphs=False, **train)
    training_set = TrainingSet(Config(data=DataConfig(shards=str(corpus.root)), frontend=frontend, train=settings))
    features, network = Features(frontend.features), Network(len(training_set.task.classes), settings.channels_last)
    reader = SlotReader(
        Reader(training_set.index, "train"), training_set.task.class_of, training_set.excerpt, training_set.read_samples
    )
    batches = iter(list(stream_batches(lambda: training_set.plan(0).rank_slots(0, 1), reader))[: steps * SLOTS])
    found, teachers = [], Teachers.load(training_set, torch.device("cpu"))
    with fake_cuda(monkeypatch, autocast=settings.precision != "fp32") as copies:
        teachers = on_device(teachers, settings) if teachers else None
        stepper = make_stepper(training_set, to_fake_cuda(network), to_fake_cuda(features), teachers)
        for step in range(steps):
            copies.uploads.clear()
            copies.downloads.clear()
            result = stepper.step(PlannedStep(step, 0, SLOTS * MICRO, last=step == steps - 1), batches, Votes())
            found.append(dataclasses.replace(copies, uploads=[*copies.uploads], downloads=[*copies.downloads]))
    assert result.clips == 1  # the value that every download has
    return found


def on_device(teachers: Teachers, settings: TrainConfig) -> Teachers:
    """Teachers that were loaded on the CPU, on DEVICE."""
    members = []
    for member in teachers.members:
        member.trained.network = to_fake_cuda(member.trained.network)
        made = to_fake_cuda(member.trained.features)
        assert isinstance(made, Features)
        member.trained.features = made
        outputs = torch.empty(member.outputs.shape, dtype=member.outputs.dtype, device=DEVICE)
        members.append(dataclasses.replace(member, outputs=outputs))
    return Teachers(members, settings, DEVICE)


def make_stepper(
    training_set: TrainingSet, network: nn.Module, features: nn.Module, teachers: Teachers | None
) -> Stepper:
    assert isinstance(features, Features)
    settings = training_set.config.train
    if settings.precision != "fp32":  # nothing can be differentiated: tests/fake_cuda.py
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
    optimizer = build_optimizer(network, settings)
    return Stepper(training_set, network, features, optimizer, Ranks(0, 1, DEVICE, 1, OneProcess()), teachers=teachers)


@pytest.mark.parametrize(
    "name", ["none", *(pytest.param(name, marks=pytest.mark.slow) for name in ("classic", "modern"))]
)
def test_a_slot_takes_two_copies_to_the_device_and_a_step_one_back(
    tones: Index, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first, second = run_steps(tones, monkeypatch, preset(name, features="mel32", mixup_probability=0.5))
    # Waves and parameters of four slots, and of the first of the next step; the votes.
    assert len(first.uploads) == 2 * (SLOTS + 1) + 1
    assert len(second.uploads) == 2 * (SLOTS - 1) + 1
    assert [first.downloads, second.downloads] == [[6 * 8]] * 2


@pytest.mark.parametrize("train", [
    {"optimizer": "sgd", "clip_grad_norm": 1.0, "ema": 0.9},
    {"optimizer": "adamw", "reduction": "exact", "channels_last": True, "label_smoothing": 0.1},
    {"optimizer": "sgd", "precision": "fp16", "clip_grad_norm": 1.0},
    pytest.param({"optimizer": "adamw", "precision": "bf16", "channels_last": True}, marks=pytest.mark.slow),
])  # fmt: skip
def test_no_setting_makes_a_step_on_a_device_wait_or_mix_devices(
    tones: Index, monkeypatch: pytest.MonkeyPatch, train: dict[str, Any]
) -> None:
    for step in run_steps(tones, monkeypatch, preset("none", features="mel32"), **train):
        assert len(step.downloads) == 1


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_teachers_need_no_copy_and_no_wait(
    tones: Index, tones_run: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    frontend = preset("modern", features="mfcc40", mixup_probability=0.5)  # the teacher has mel32
    first, second = run_steps(tones, monkeypatch, frontend, teacher=(str(tones_run),), precision=precision)
    assert (len(first.uploads), len(second.uploads)) == (2 * (SLOTS + 1) + 1, 2 * (SLOTS - 1) + 1)
    assert [first.downloads, second.downloads] == [[6 * 8]] * 2


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_of_a_cpu_resumes_on_a_device(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    settings = TrainConfig(optimizer=name, global_batch=8, micro_batch=2, channels_last=True)

    def step_on(network: nn.Module) -> torch.optim.Optimizer:
        optimizer = build_optimizer(network, settings)
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
        return optimizer

    on_cpu = step_on(Network(3, channels_last=False))
    on_cpu.step()
    state, network = on_cpu.state_dict(), Network(3, channels_last=True)
    with fake_cuda(monkeypatch) as copies:
        optimizer = step_on(to_fake_cuda(network))
        copies.may_wait = True
        load_state(optimizer, state)
        copies.may_wait = False
        optimizer.step()  # checks devices and layouts
        values = [value for of_p in optimizer.state.values() for value in of_p.values()]
    assert optimizer.param_groups[0]["fused"]
    assert values
    assert {value.device for value in values} == {DEVICE}
    assert on_cpu.param_groups[0]["fused"] is None


def test_a_wait_in_a_slot_on_a_device_would_be_noticed(tones: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocking(parameters: Any, device: torch.device) -> Any:
        return parameters.to(device) if isinstance(parameters, Tensor) else original(parameters, device)

    original = slot_inputs.to_device
    monkeypatch.setattr(slot_inputs, "to_device", blocking)
    with pytest.raises(HostWaitError):
        run_steps(tones, monkeypatch, preset("none", features="mel32"))
