"""Check 13: small networks, which show what is not the network: clips/s, gap between epochs, saves, memory, reader."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

import torch

from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import ROOT, Context, Finding, Skip, last_line
from benchmarks.gpu_checks.runs import Run
from benchmarks.gpu_checks.steps import Steps, make_config, one_rank
from benchmarks.gpu_checks.wide_networks import seconds_of
from kws.config import preset

NETWORKS = ("tc_resnet8", "matchboxnet_3x2x64", "bcresnet_1", "resnet32")
CLIPS_BAR, LOADER_BAR = 30_000.0, 0.7


def check(context: Context) -> Finding:
    """Steps in this process, a training of three epochs, and benchmarks/stream.py."""
    finding = Finding()
    with finding.part("steps"):
        _steps(context, finding)
    with finding.part("three epochs"):
        _epochs(context, finding)
    with finding.part("reader"):
        _reader(context, finding)
    return finding


def _steps(context: Context, finding: Finding) -> None:
    """Clips/s of whole steps, with batches that were read before: modern chain, bf16, 512 clips in two slots."""
    clips, best = context.sized(512, 16), 0.0
    with one_rank(context) as ranks:
        for name in NETWORKS[: context.sized(4, 1)]:
            config = make_config(
                context, name, preset("modern"), speed=True, global_batch=clips, micro_batch=clips // 2,
                precision="bf16" if context.on_gpu else "fp32",
            )  # fmt: skip
            steps = Steps(config, ranks)
            rate = clips / seconds_of(steps.step, ranks.device, context.sized(30, 1))
            best = max(best, rate)
            finding.add(f"{name} {rate:,.0f} clips/s", **{f"{name} clips_per_s": rate})
    finding.expect(best >= CLIPS_BAR or not context.on_gpu, f"no small network reaches {CLIPS_BAR:,.0f} clips/s")


def _epochs(context: Context, finding: Finding) -> None:
    """What an epoch costs beside its steps, and whether the memory grows."""
    run = Run(
        context, "small", model__name="matchboxnet_3x2x64", frontend__features="logmel40", frontend__augment="modern",
        data__shards=corpora.clips(context), data__workers=2, data__ledger="false", train__epochs=3,
        train__global_batch=context.sized(512, 32), train__micro_batch=context.sized(256, 16),
        train__threads=context.sized(0, 1),
    )  # fmt: skip
    run.train()
    epochs, steps, saves = (run.events(kind) for kind in ("epoch", "step", "save"))
    rates = [row["clips_per_s"] for row in epochs]
    finding.add(f"matchboxnet_3x2x64 by kws train {rates[-1]:,.0f} clips/s", epoch_clips_per_s=rates)
    stall = median(row["seconds"] for row in saves)
    finding.add(f"a save {1000 * stall:.0f} ms", save_s=stall, eval_s=[row["eval_seconds"] for row in epochs])
    firsts = [next(row for row in steps if row["epoch"] == epoch) for epoch in range(3)]
    usual = median(row["seconds"] for row in steps)
    gaps = [row["seconds"] - usual for row in firsts[1:]]
    finding.add(f"first step of an epoch {1000 * max(gaps):+.0f} ms", epoch_gap_s=gaps, step_s=usual)
    memory = [max(row.get("gpu_gb", 0.0) for row in steps if row["epoch"] == epoch) for epoch in range(3)]
    finding.add(f"GPU memory {memory[0]:.2f}, {memory[1]:.2f}, {memory[2]:.2f} GB", gpu_gb=memory)
    finding.expect(memory[2] <= 1.05 * memory[1], f"GPU memory grows: {memory} GB")


def _reader(context: Context, finding: Finding) -> None:
    """benchmarks/stream.py: clips/s through the loader of a GPU against the process's own."""
    if context.quick:
        raise Skip("benchmarks/stream.py has a test of its own")
    command = [sys.executable, str(ROOT / "benchmarks" / "stream.py"), "--quick", "--data", str(corpora.clips(context))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(20.0, context.seconds_left), check=False)
    print(done.stdout, done.stderr, flush=True)
    if "ModuleNotFoundError" in done.stderr:
        raise Skip(f"benchmarks/stream.py: {last_line(done.stderr)}")
    if done.returncode:
        raise RuntimeError(last_line(done.stderr))
    facts = json.loads(last_line(done.stdout))
    ratio = facts["ratio_loader"]
    finding.add(f"reader {facts['clips_per_s']:,.0f} clips/s, loader {ratio:.2f} of it", ratio_loader=ratio)
    finding.expect(
        ratio >= LOADER_BAR or not torch.cuda.is_available(), f"the loader reaches {ratio:.2f} of the process's own"
    )
