"""In a child process: what needs torch. First its builds and GPUs; then, once all ranks have answered that, what a
training does at its start: joining the process group, an all-reduce, and a few slots of the config's network.

    stdin: a line, when all ranks are ready -> {"group": ...}, {"all_reduce": ...}, {"step": ...}, each when it is known
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kws.distributed.device import choose_device, probe
from kws.doctor import nccl_log
from kws.doctor.child_process import Answer, Send, answer_parent
from kws.errors import UsageError

LARGE_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
"""Of the tensors whose all-reduce gives the bandwidth, by type of device."""
_SMALL_BYTES, _ENOUGH_S, _MOST_TIMES = 4, 0.5, 20


def work(task: Answer, send: Send) -> None:
    """task: {"config": path or None, "overrides", "run", "device": train.device}."""
    send(describe(task["device"]))
    if sys.stdin.readline():
        _train_a_little(task, send)


# --- builds and GPUs -----------------------------------------------------------------------------------------


def describe(setting: str) -> Answer:
    """Versions and builds of torch and torchaudio, the GPUs that this process sees, and the one that a training would
    use, or why it could not. `setting`: train.device."""
    usable = torch.cuda.is_available()
    device, fault = _own_device(setting)
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "nccl": _nccl() if usable else "",
        "threads": torch.get_num_threads(),
        "devices": [_device(number) for number in range(torch.cuda.device_count())] if usable else [],
        "device": device,
        "fault": fault,
        **_torchaudio(),
    }


def _own_device(setting: str) -> tuple[str, str]:
    """The device of this rank and its fault, as the start of a training finds them. A GPU is used, because one that is
    listed may still not work."""
    try:
        device = choose_device(setting)
    except UsageError as error:
        return "", str(error)
    return str(device), probe(device)


def _device(number: int) -> Answer:
    found = torch.cuda.get_device_properties(number)
    return {"name": found.name, "capability": f"{found.major}.{found.minor}", "memory": found.total_memory}


def _nccl() -> str:
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return ".".join(map(str, version))


def _torchaudio() -> Answer:
    try:
        from kws.audio import ta
    except (ImportError, OSError, RuntimeError) as error:
        return {"torchaudio": "", "torchaudio_error": str(error).splitlines()[0], "extension": False}
    extension = sys.modules.get("torchaudio._extension")
    return {
        "torchaudio": str(ta.torchaudio.__version__),
        "torchaudio_error": "",
        "extension": bool(getattr(extension, "_IS_TORCHAUDIO_EXT_AVAILABLE", False)),
    }


# --- what a training does at its start -----------------------------------------------------------------------


def _train_a_little(task: Answer, send: Send) -> None:
    from kws import settings_file
    from kws.config import Config
    from kws.distributed import process_group
    from kws.run import folder as run_folder

    path = task["config"]
    config = settings_file.load(Path(path), task["overrides"]) if path else Config()
    run = Path(task["run"])
    threads = config.train.threads or run_folder.recorded_threads(run)
    # The parent has limits of its own, and shows how many ranks there are.
    train = dataclasses.replace(config.train, threads=threads, hang_s=0.0, processes=0)
    began = time.monotonic()
    log = nccl_log.write_log() if torch.cuda.is_available() else None
    with contextlib.ExitStack() as joined:
        joined.callback(nccl_log.network, log)  # removes it, where the ranks do not join
        ranks = joined.enter_context(process_group.start(train, training=True))
        ranks.barrier()
        backend = dist.get_backend() if ranks.world_size > 1 else None
        group = {"seconds": time.monotonic() - began, "backend": backend, "network": nccl_log.network(log)}
        send({"group": group | {"device": str(ranks.device), "threads": ranks.threads}})
        send({"all_reduce": _all_reduces(ranks)})
        if path:
            send({"step": _measure_step(dataclasses.replace(config, train=train), run, ranks)})


def _all_reduces(ranks: Any) -> dict[str, Answer | None]:
    """All ranks; the ranks of this node; one rank of each node. None for a group of one rank."""
    nodes: dict[str, list[int]] = {}
    for rank, host in enumerate(ranks.gather(os.uname().nodename)):
        nodes.setdefault(host, []).append(rank)
    found: dict[str, Answer | None] = {"all": _measure_group(ranks, list(range(ranks.world_size)), None)}
    for members in nodes.values():  # every rank takes part in making every group
        group = dist.new_group(members) if 1 < len(members) < ranks.world_size else None
        if ranks.rank in members:
            found["node"] = _measure_group(ranks, members, group)
    first = [members[0] for members in nodes.values()]
    group = dist.new_group(first) if 1 < len(first) < ranks.world_size else None
    found["nodes"] = _measure_group(ranks, first, group) if ranks.rank in first else None
    ranks.barrier()
    return found


def _measure_group(ranks: Any, members: list[int], group: Any) -> Answer | None:
    if len(members) < 2:
        return None
    large = LARGE_BYTES[ranks.device.type]
    latency_s = all_reduce_seconds(_SMALL_BYTES, ranks.device, group)
    seconds = all_reduce_seconds(large, ranks.device, group)
    return {"ranks": members, "latency_s": latency_s, "bytes": large, "seconds": seconds}


def all_reduce_seconds(size: int, device: torch.device, group: Any = None) -> float:
    """Seconds of one all-reduce of `size` bytes, the median of several, on this rank. Collective in the group."""
    tensor = torch.zeros(max(1, size // 4), device=device)
    _timed(tensor, group)  # connects
    slowest = torch.tensor([_timed(tensor, group)], device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX, group=group)  # so that all ranks repeat it equally often
    times = min(_MOST_TIMES, max(1, int(_ENOUGH_S / max(slowest.item(), 1e-6))))
    return statistics.median(_timed(tensor, group) for _ in range(times))


def _timed(tensor: torch.Tensor, group: Any) -> float:
    began = time.perf_counter()
    dist.all_reduce(tensor, group=group)
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter() - began


def _measure_step(config: Any, run: Path, ranks: Any) -> Answer:
    """A few slots of the network on made-up clips, on all ranks at once, and an all-reduce of its gradient."""
    from kws.training.time_estimate import measure_slots
    from kws.training.trainer import Trainer

    trainer = ranks.on_all(lambda: Trainer(config, run, ranks))
    train = trainer.config.train
    size = sum(p.numel() * p.element_size() for p in trainer.network.parameters() if p.requires_grad)
    measured = measure_slots(trainer)
    return {
        "network": config.model.name,
        "gradient_bytes": size,
        "all_reduce_s": all_reduce_seconds(size, ranks.device) if ranks.world_size > 1 else None,
        "slots": train.slots,
        "micro_batch": train.micro_batch,
        "slot_s": [times.slot for times in measured],
        "update_s": [times.update for times in measured],
    }


if __name__ == "__main__":
    answer_parent(work)
