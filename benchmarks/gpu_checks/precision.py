"""Check 7: each precision, reduction and memory layout: finite losses that fall, and gradients near those of fp32."""

from __future__ import annotations

import math

import torch

from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.steps import Steps, make_config, one_rank, weights
from kws.config import preset
from kws.distributed.ranks import Ranks

LR = 0.05
WITHIN = 0.03
"""Of kwt_1, which has no batch norm: with it, rounding to bf16 alone changes a first gradient by 4 to 26 % (measured on
a CPU without kws: res8_narrow, matchboxnet_3x1x64, resnet20, ds_cnn_s)."""


def check(context: Context) -> Finding:
    """Twelve combinations: gradients of kwt_1, losses of resnet20."""
    finding = Finding()
    with one_rank(context) as ranks:
        # The first one, fp32 in the usual layout, is what the others are compared with.
        for reduction in ("fast", "exact")[: context.sized(2, 1)]:
            wanted = _gradient(context, ranks, precision="fp32", reduction=reduction)
            for precision in ("fp32", "bf16", "fp16"):
                for channels_last in (False, True):
                    if precision == "fp16" and not context.on_gpu:
                        continue  # GradScaler and most operations have no fp16 on CPUs
                    name = f"{precision}, {reduction}, {'NHWC' if channels_last else 'NCHW'}"
                    settings = {"precision": precision, "reduction": reduction, "channels_last": channels_last}
                    with finding.part(name):
                        _compare(context, ranks, name, settings, wanted, finding)
    return finding


def _compare(
    context: Context, ranks: Ranks, name: str, settings: dict[str, object], wanted: torch.Tensor, finding: Finding
) -> None:
    found = _gradient(context, ranks, **settings)
    apart = float((found - wanted).norm() / wanted.norm())
    losses = _losses(context, ranks, **settings)
    finding.add(
        f"{name}: gradient to {apart:.2%}, loss {losses[0]:.2f} to {losses[-1]:.2f}", **{f"gradient {name}": apart}
    )
    finding.expect(apart <= WITHIN, f"{name}: the gradient differs by {apart:.1%}")
    finding.expect(all(map(math.isfinite, losses)), f"{name}: losses {losses}")
    finding.expect(
        losses[-1] < (1.0 if context.quick else 0.8) * losses[0],
        f"{name}: the loss does not fall ({losses[0]:.3f} to {losses[-1]:.3f})",
    )


def _steps(context: Context, ranks: Ranks, network: str, chain: str, **settings: object) -> Steps:
    clips = context.sized(16, 2)  # few in the self-test, because CPUs may take a hundred times as long in bf16
    sizes = {"global_batch": 4 * clips, "micro_batch": clips, "warmup_epochs": 0.0}
    return Steps(make_config(context, network, preset(chain, features="mel32"), **sizes, **settings), ranks)


def _gradient(context: Context, ranks: Ranks, **settings: object) -> torch.Tensor:
    """The gradient of a step: how far plain SGD moves the weights, divided by its learning rate."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": LR, "schedule": "constant"}
    steps = _steps(context, ranks, "kwt_1", "none", **plain, **settings)
    before = weights(steps)
    for _ in range(8):  # fp16's scaler leaves out steps until its scale fits
        steps.step(0)
        moved = (before - weights(steps)) / LR
        if bool(moved.any()):
            return moved
    raise RuntimeError("no step changed the weights")


def _losses(context: Context, ranks: Ranks, **settings: object) -> list[float]:
    """Mean losses of a training on a few batches."""
    network = "matchboxnet_3x1x64" if context.quick else "resnet20"
    steps = _steps(context, ranks, network, "classic", lr=0.01, **settings)
    results = [steps.step() for _ in range(context.sized(20, 4))]
    return [result.loss / result.clips for result in results]
