"""Check 4: the same bits each time: slots computed again, also without CUDA graphs, and runs killed and resumed."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.runs import Run, stop, unequal
from benchmarks.gpu_checks.steps import Steps, make_config, one_rank, weights

NETWORKS = (
    "matchboxnet_3x1x64", "tc_resnet8", "bcresnet_1", "kwt_1", "resnet20", "ds_cnn_s", "res8", "wrn_40_2_b131",
    "densenet_bc_100_12", "vgg19_bn", "bcresnet_1.5",
)  # fmt: skip
PREEMPTED = 75


def check(context: Context) -> Finding:
    """Networks of every kind in this process; two runs in processes of their own, which are killed and stopped."""
    finding = Finding()
    with ThreadPoolExecutor() as threads:
        reductions = ("fast", "exact")[: context.sized(2, 1)]
        broken = [threads.submit(_killed_and_resumed, context, reduction) for reduction in reductions]
        with finding.part("slots again"):
            _slots_again(context, finding)
        for reduction, result in zip(reductions, broken, strict=True):
            with finding.part(reduction):
                faults = result.result()
                finding.expect(not faults, f"{reduction}: {'; '.join(faults)}")
                finding.add(f"{reduction}: killed, stopped, resumed")
    return finding


def _slots_again(context: Context, finding: Finding) -> None:
    """Two steps from the same weights must give the same weights, also where no CUDA graph is used."""
    names = NETWORKS[: context.sized(len(NETWORKS), 4)]
    with one_rank(context, deterministic=True) as ranks:
        for name in names:
            ends = []
            for graphs in (True, True, False):
                config = make_config(context, name, deterministic=True, lr=0.01, cuda_graphs=graphs)
                steps = Steps(config, ranks, num_steps=1)
                steps.step(0), steps.step(1)
                ends.append(weights(steps))
            finding.expect(torch.equal(*ends[:2]), f"{name}: other bits when the same slots are computed again")
            finding.expect(torch.equal(*ends[1:]), f"{name}: other bits without CUDA graphs")
    finding.add(f"{len(names)} networks again, and without CUDA graphs")


def _killed_and_resumed(context: Context, reduction: str) -> list[str]:
    """Faults of a run that is killed, resumed, stopped and resumed again, compared with one that is left alone."""
    settings = {
        "train__reduction": reduction, "train__deterministic": "true", "train__save_minutes": 0, "train__ema": 0.9,
        "frontend__mixup_probability": 0.3, "train__epochs": context.sized(4, 3),
    }  # fmt: skip
    whole, broken = (Run(context, f"{name}-{reduction}", **settings) for name in ("whole", "broken"))
    faults, undisturbed = [], whole.start()
    killed = broken.start()
    killed.wait_until(lambda: broken.saved_step() >= 2, context.seconds_left)
    killed.kill()
    stopped = broken.start()
    resumed_at = broken.steps_done()
    stopped.wait_until(lambda: broken.steps_done() >= resumed_at + 2, context.seconds_left)
    ended = stop(stopped, signal.SIGTERM)
    if ended.code != PREEMPTED:
        faults.append(f"SIGTERM: exit code {ended.code} instead of {PREEMPTED}")
    broken.train()
    if undisturbed.finish(context.seconds_left).code:
        return [*faults, "the undisturbed run failed"]
    other = unequal(whole, broken)
    return [*faults, f"{len(other)} tensors differ, such as {other[0]}"] if other else faults
