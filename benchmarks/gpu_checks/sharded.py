"""Check 10: ZeRO-1 and ZeRO-2 on one rank: the optimisation of a run without, saved and resumed; memory."""

from __future__ import annotations

import importlib.util

from benchmarks.gpu_checks.check import Context, Finding, Skip
from benchmarks.gpu_checks.runs import FULL_FLOAT32, Command, Run, succeeded

COMPARED_STEPS = 8
"""Later, the rounding of two implementations of AdamW (torch's fused kernel, DeepSpeed's) has grown: on an H200 the
losses of 9 steps differed by at most 8e-7, those of step 10 by 4e-5, those of step 26 by 2e-4. CPUs: equal bits."""


def check(context: Context) -> Finding:
    """Three runs; the two with ZeRO are killed after a checkpoint and resumed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise Skip("the package deepspeed is not installed")
    finding, stages = Finding(), range(context.sized(3, 2))
    settings = {"train__epochs": 2, "train__lr": 0.001, "train__save_minutes": 0, "train__deterministic": "true"}
    runs = [Run(context, f"zero{stage}", train__zero=stage, **settings) for stage in stages]
    commands: list[Command] = [run.start(env=FULL_FLOAT32) for run in runs]
    for run, command in list(zip(runs, commands, strict=True))[1:]:
        command.wait_until(lambda run=run: run.saved_step() >= 2, context.seconds_left)  # type: ignore[misc]
        command.kill()
    resumed = [commands[0], *(run.start(env=FULL_FLOAT32) for run in runs[1:])]
    for stage, command in enumerate(resumed):
        with finding.part(f"ZeRO-{stage}"):
            succeeded(command.finish(context.seconds_left))
    for stage, run in list(enumerate(runs))[1:]:
        with finding.part(f"ZeRO-{stage}"):
            _compare(stage, runs[0], run, finding)
    return finding


def _compare(stage: int, plain: Run, run: Run, finding: Finding) -> None:
    differences = [abs(a - b) for a, b in zip(plain.losses(), run.losses(), strict=True)]
    print(f"ZeRO-{stage}: differences of the losses by step:", *(f"{one:.1e}" for one in differences))
    apart = max(differences[:COMPARED_STEPS])
    finding.add(
        f"ZeRO-{stage}: resumed, {COMPARED_STEPS} losses to {apart:.1e}", **{f"zero{stage}_losses_apart": apart}
    )
    finding.expect(apart <= 1e-5, f"ZeRO-{stage}: losses differ by {apart:.1e}")
    used, more = (one.events("step")[-1].get("gpu_gb") for one in (plain, run))
    if used is not None and more is not None:
        finding.add(f"{more - used:+.2f} GB on the GPU", **{f"zero{stage}_extra_gb": more - used})
        finding.expect(more - used < 0.3, f"ZeRO-{stage} needs {more - used:.2f} GB more")
