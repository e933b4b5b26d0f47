"""Check 8: every network computes the same on the device as on the CPU, TF32 off; batch norm on views of a flat tensor.

On a CPU both sides are the CPU, so only the code runs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from benchmarks.gpu_checks.check import Context, Finding
from kws.commands import catalogue
from kws.distributed.arithmetic import full_float32
from kws.machine import usable_cores
from kws.models import registry
from kws.training.slots import RunningStatistics

CLASSES, CLIPS, TOLERANCE, GRADIENT_FACTOR = 12, 2, 1e-4, 4.0
"""GRADIENT_FACTOR: by how much a gradient may differ from float64 more than on a CPU. In deep networks with batch norm
over 8 clips, float32 itself is off by up to 1 % there (wrn_40_2_b131)."""
ONE_OF_EACH_KIND = (
    "matchboxnet_3x1x64", "resnet20", "tc_resnet8", "bcresnet_1", "ds_cnn_s", "res8_narrow", "kwt_1", "wrn_40_2_b131",
    "densenet_bc_100_12",
)  # fmt: skip
"""Networks whose gradients are compared too, on 8 clips: one of each family that is not huge."""


def check(context: Context) -> Finding:
    """Logits of all networks in evaluation mode; gradients of one of each family; running statistics."""
    if context.on_gpu:
        torch.set_num_threads(max(1, usable_cores() // 4))  # up to four checks run at once
    with full_float32():
        return _compare_all(context)


def _compare_all(context: Context) -> Finding:
    finding, device = Finding(), torch.device(context.device)
    rows = sorted(
        (catalogue.network_row(name, CLASSES) for name in _names(context)), key=lambda row: row["multiply_adds"]
    )
    worst, done = ("", 0.0), 0
    for row in rows:
        if context.seconds_left < 25.0:
            break
        apart = _logits_apart(row["name"], row["input"], device)
        done += 1
        worst = max(worst, (row["name"], apart), key=lambda pair: pair[1])
        finding.expect(apart <= TOLERANCE, f"{row['name']}: logits differ by {apart:.1e}")
    finding.add(
        f"{done} of {len(rows)} networks, logits to {worst[1]:.1e} ({worst[0]})", networks=done, logits=worst[1]
    )
    finding.expect(done == len(rows), f"no time for {', '.join(row['name'] for row in rows[done:])}")
    for name in ONE_OF_EACH_KIND[: context.sized(99, 3)]:
        if context.seconds_left > 10.0:
            with finding.part(name):
                _compare_training(name, device, finding)
    return finding


def _names(context: Context) -> Sequence[str]:
    return ONE_OF_EACH_KIND if context.quick else list(registry.MODELS)


def _network(name: str, shape: tuple[int, int, int]) -> nn.Module:
    torch.manual_seed(0)
    return registry.build_model(name, CLASSES, shape)


def _clips(count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found.cpu() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))


@torch.no_grad()
def _logits_apart(name: str, shape: tuple[int, int, int], device: torch.device) -> float:
    network, clips = _network(name, shape).eval(), _clips(CLIPS, shape)
    wanted = network(clips)
    return _apart(network.to(device)(clips.to(device)), wanted)


def _compare_training(name: str, device: torch.device, finding: Finding) -> None:
    """Gradients against the CPU, and running statistics on flat views against batch norm's own buffers."""
    row = catalogue.network_row(name, CLASSES)
    network, clips = _network(name, row["input"]), _clips(8, row["input"])
    exact, plain, flat = copy.deepcopy(network).double(), *(copy.deepcopy(network).to(device) for _ in range(2))
    statistics = RunningStatistics(flat)
    statistics.begin_step()
    statistics.begin_slot(len(clips))
    for one in (network, exact, plain, flat):
        _train(one, clips.to(next(one.parameters())))
    apart, on_cpu = _gradients_apart(plain, exact), _gradients_apart(network, exact)
    finding.add(f"{name}: gradient to {apart:.1e} (CPU {on_cpu:.1e})", **{f"gradient_{name}": apart})
    limit = max(1e-3, GRADIENT_FACTOR * on_cpu)
    finding.expect(apart <= limit, f"{name}: the gradient differs by {apart:.1e}, on the CPU by {on_cpu:.1e}")
    names = [key for key in plain.state_dict() if key.rpartition(".")[2].startswith("running_")]
    same = all(torch.equal(plain.state_dict()[key], flat.state_dict()[key]) for key in names)
    finding.expect(same, f"{name}: other running statistics on views of a flat tensor")


def _gradients_apart(network: nn.Module, exact: nn.Module) -> float:
    """Norm of the difference between all gradients and those in float64, relative to theirs."""
    pairs = zip(network.parameters(), exact.parameters(), strict=True)
    norms = [(float((a.grad.cpu() - b.grad).norm()), float(b.grad.norm())) for a, b in pairs]  # type: ignore[union-attr]
    return float(sum(norm[0] ** 2 for norm in norms) ** 0.5 / sum(norm[1] ** 2 for norm in norms) ** 0.5)


def _train(network: nn.Module, clips: Tensor) -> None:
    network.train()
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0  # its random numbers differ between devices
    labels = torch.arange(len(clips), device=clips.device) % CLASSES
    nn.functional.cross_entropy(network(clips), labels).backward()
