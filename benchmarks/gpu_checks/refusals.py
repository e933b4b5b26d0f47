"""Check 9: what cannot work is refused with one line and exit code 2, never with a traceback."""

from __future__ import annotations

import sys

import torch

from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.runs import ALONE, Ended, Run, accelerate

LITTLE_MEMORY = (sys.executable, "-m", "benchmarks.gpu_checks.kws_with_little_memory")


def check(context: Context) -> Finding:
    """A local rank beyond the visible GPUs, more processes than GPUs, and too little memory."""
    finding, gpus = Finding(), torch.cuda.device_count()
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    local = Run(context, "local-rank", train__epochs=1)
    too_many = Run(context, "too-many", train__device="cuda")
    huge = Run(context, "memory", model__name="wrn_28_10", train__micro_batch=256, train__global_batch=256)
    commands = {
        "LOCAL_RANK=1": local.start(ALONE, alone | ({"CUDA_VISIBLE_DEVICES": "0"} if context.on_gpu else {})),
        f"gpus.yaml, {gpus + 1} processes": too_many.start(accelerate("gpus.yaml", "--num_processes", gpus + 1)),
        "out of memory": huge.start(LITTLE_MEMORY),
    }  # fmt: skip
    for name, command in commands.items():
        ended = command.finish(context.seconds_left)
        with finding.part(name):
            _judge(name, ended, finding)
    return finding


def _judge(name: str, ended: Ended, finding: Finding) -> None:
    if name == "LOCAL_RANK=1" and ended.code == 0:
        finding.add(f"{name}: trains on the one visible GPU")
        return
    # A launcher has an exit code and a traceback of its own; it prints that of kws.
    code = 2 if "exitcode  : 2" in ended.output else ended.code
    text = ended.lines[0] if ended.lines else "no line"
    finding.add(f"{name}: {text.removeprefix('kws: ')[:160]}")
    finding.expect(code == 2, f"{name}: exit code {code}")
    finding.expect(len(ended.lines) == 1, f"{name}: {len(ended.lines)} lines of kws")
    finding.expect("Traceback" not in ended.output.partition("kws: ")[0], f"{name}: a traceback")
