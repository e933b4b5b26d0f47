"""Check 11: speed of WRN-28-10 and WRN-52-10 by precision, layout, slot size and torch.compile, against a bf16 product.

Check 12: the same network trained by kws itself, profiled: front end, waiting for data, and how busy the GPU is.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import ROOT, Context, Finding
from benchmarks.gpu_checks.runs import Run
from kws import settings_file
from kws.commands import catalogue
from kws.models import registry

CLASSES = 35
MFU_BAR, CLIPS_BAR = 0.40, 1010.0
"""Share of the measured bf16 product; ten times the 101 clips/s of the 2024 course report, for WRN-52-10."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a network is run."""

    clips: int
    precision: str = "bf16"
    channels_last: bool = True
    compiled: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        words = [self.precision, "NHWC" if self.channels_last else "NCHW", str(self.clips)]
        return " ".join([*words, "compiled"] if self.compiled else words)


VARIANTS = (
    Variant(32, "fp32", False), Variant(32, "bf16", False), Variant(32), Variant(128), Variant(256),
    Variant(128, compiled=True),
)  # fmt: skip


def product_flops(device: torch.device, side: int, kind: torch.dtype = torch.bfloat16) -> float:
    """Floating-point operations per second of a product of square matrices."""
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return 2.0 * side**3 / seconds_of(lambda: one @ other, device, 10)


def seconds_of(action: Callable[[], Any], device: torch.device, times: int) -> float:
    """Mean seconds of an action, after two to warm up."""
    for _ in range(2):
        action()
    _settle(device)
    began = time.perf_counter()
    for _ in range(times):
        action()
    _settle(device)
    return (time.perf_counter() - began) / times


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check(context: Context) -> Finding:
    """Forward pass, backward pass and a fused optimizer, on clips that are on the device."""
    finding, device = Finding(), torch.device(context.device)
    product = product_flops(device, context.sized(8192, 128))
    finding.add(f"bf16 product {product / 1e12:.3g} TFLOP/s", product_tflops=product / 1e12)
    best: dict[str, float] = {}
    for name in ("wrn_28_10", "wrn_52_10") if not context.quick else ("tc_resnet8",):
        row = catalogue.network_row(name, CLASSES)
        for variant in VARIANTS:
            if context.seconds_left < (35.0 if variant.compiled else 10.0) or (
                variant.compiled and name == "wrn_52_10"
            ):
                continue
            with finding.part(f"{name} {variant.name}"):
                clips_per_s, memory_gb = _measure(row, variant, context, device)
                mfu = clips_per_s * 6.0 * row["multiply_adds"] / product
                best[name] = max(best.get(name, 0.0), mfu)
                figures = {f"{name} {variant.name}": {"clips_per_s": clips_per_s, "mfu": mfu, "gb": memory_gb}}
                finding.add(
                    f"{name} {variant.name}: {clips_per_s:,.0f} clips/s, MFU {mfu:.0%}, {memory_gb:.1f} GB", **figures
                )
                if name == "wrn_52_10" and variant.precision == "bf16" and variant.clips >= 128:
                    finding.expect(clips_per_s >= CLIPS_BAR, f"{name} {variant.name}: {clips_per_s:,.0f} clips/s")
    for name, mfu in best.items():
        finding.expect(mfu >= MFU_BAR or not context.on_gpu, f"{name}: MFU {mfu:.0%} of the product")
    return finding


def _measure(row: dict[str, Any], variant: Variant, context: Context, device: torch.device) -> tuple[float, float]:
    """Clips/s, and the peak of allocated memory in GB."""
    torch.manual_seed(0)
    network = registry.build_model(row["name"], CLASSES, row["input"]).to(device)
    clips = torch.randn(context.sized(variant.clips, 4), *row["input"], device=device)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    network, clips = network.to(memory_format=layout), clips.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=context.on_gpu)
    labels = torch.arange(len(clips), device=device) % CLASSES
    if variant.compiled and not context.quick:  # what a CPU would compile for minutes, check 14 covers
        network.compile(dynamic=False)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.precision == "bf16"):
            logits = network(clips)
        torch.autograd.backward(nn.functional.cross_entropy(logits.float(), labels))
        optimizer.step()
        optimizer.zero_grad()

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of(step, device, context.sized(8, 1))
    gb = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return len(clips) / seconds, gb


# --- trained by kws --------------------------------------------------------------------------------------------


def check_training(context: Context) -> Finding:
    """wrn_28_10 with the slots, precision and layout of its config; in the self-test a tiny network."""
    finding, steps, warm = Finding(), context.sized(60, 8), context.sized(30, 4)
    own = settings_file.load(ROOT / "configs" / "wrn_28_10.toml")
    recipe: dict[str, object] = {
        "model__name": "wrn_28_10", "train__global_batch": own.train.global_batch,
        "train__micro_batch": own.train.micro_batch, "train__precision": own.train.precision,
        "train__channels_last": str(own.train.channels_last).lower(), "data__workers": 2,
    }  # fmt: skip
    if context.quick:
        recipe = {"train__global_batch": 16, "train__micro_batch": 8}
    run = Run(
        context, "wide", data__shards=corpora.clips(context), data__ledger="false", train__epochs=1,
        data__epoch_clips=int(str(recipe["train__global_batch"])) * steps, train__optimizer="sgd", train__lr=0.05,
        train__threads=context.sized(0, 1), train__profile=f"{warm}:{steps}", **recipe,
    )  # fmt: skip
    run.train()
    (path,) = (run.folder / "profile").glob("*.summary.json")
    found = json.loads(path.read_text())
    product = product_flops(torch.device(context.device), context.sized(8192, 128))
    row = catalogue.network_row(str(run.settings["model.name"]), CLASSES)
    clips_per_s = float(run.settings["train.global_batch"]) / found["seconds_a_step"]  # type: ignore[arg-type]
    mfu = clips_per_s * 6.0 * row["multiply_adds"] / product
    finding.add(f"{clips_per_s:,.0f} clips/s, MFU {mfu:.0%}", clips_per_s=clips_per_s, mfu=mfu, profile=found)
    front_end, busy, wait = (found[key] for key in ("front_end_device_share", "gpu_busy_share", "data_wait_share"))
    finding.add(f"data wait {wait:.1%}")
    if context.on_gpu:
        finding.add(f"front end {front_end:.1%} of the GPU's work, GPU busy {busy:.1%}")
        finding.expect(front_end <= 0.05, f"front end {front_end:.1%}")
        finding.expect(wait <= 0.02, f"data wait {wait:.1%}")
        finding.expect(busy > 0.90, f"GPU busy {busy:.1%}")
    return finding
