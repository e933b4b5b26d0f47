"""Findings on each machine alone and on what must be equal on all: versions, builds, GPUs, cores, limits."""

from __future__ import annotations

from typing import Any

from kws.doctor.answers import Answers
from kws.doctor.findings import SITE, Finding, not_checked, ok, problem, size_text, warning

_PYTHON = (3, 11)
_OPEN_FILES, _FILES_OF_RUN = 1024, 128
_SHARED_MEMORY = 1 << 30
"""NCCL takes about 10 MB of /dev/shm for each pair of neighbouring GPUs and channel; a container has 64 MB."""


def rows(answers: Answers) -> list[Finding]:
    """All rows of this module; none where the examination was stopped before."""
    if not answers.machine:
        return []
    torch = {rank: found["torch"] for rank, found in answers.machine.items()}
    working = {rank: found for rank, found in torch.items() if "error" not in found}
    return [
        _python(answers), _kws(answers), _torch(answers, torch), _torchaudio(answers, working), _packages(answers),
        _driver(answers, working), _gpus(answers, working), _threads(answers, working), _open_files(answers),
        _shared_memory(answers), *_locked_memory(answers),
    ]  # fmt: skip


def _field(answers: Answers, name: str) -> dict[int, Any]:
    return {rank: found[name] for rank, found in answers.machine.items()}


def _minority(answers: Answers, values: dict[int, Any]) -> list[int]:
    """The ranks whose value is not the most frequent one."""
    return [rank for _, ranks in answers.groups(values)[1:] for rank in ranks]


def _python(answers: Answers) -> Finding:
    versions = _field(answers, "python")
    wanted = f"{_PYTHON[0]}.{_PYTHON[1]} or later" + (", one version" if answers.world_size > 1 else "")
    old = [rank for rank, text in versions.items() if tuple(map(int, text.split(".")[:2])) < _PYTHON]
    if old:
        return problem("Python", answers.by_value(versions), wanted, "install a newer Python", old)
    return _equal(answers, "Python", versions, wanted)


def _kws(answers: Answers) -> Finding:
    wanted = "the same code on all ranks"
    return _equal(answers, "kws", _field(answers, "kws"), wanted if answers.world_size > 1 else "")


def _equal(answers: Answers, check: str, values: dict[int, str], wanted: str) -> Finding:
    """A problem where the ranks have different versions: their results would differ, or a collective would hang."""
    found = answers.by_value(values)
    if len(answers.groups(values)) <= 1:
        return ok(check, found, wanted)
    advice = f"use one environment on all nodes: activate it in {SITE}, and look at PYTHONPATH"
    return problem(check, found, wanted, advice, _minority(answers, values))


def _torch(answers: Answers, torch: dict[int, dict[str, Any]]) -> Finding:
    broken = {rank: found["error"] for rank, found in torch.items() if "error" in found}
    if broken:
        advice = 'install it again, for this machine: https://pytorch.org, then python -c "import torch"'
        if all(text.startswith("no answer") for text in broken.values()):
            advice = "use a longer --timeout, or put the environment on a faster disk"
        return problem("torch", answers.by_value(broken), "can be imported", advice, broken)
    return _equal(
        answers,
        "torch",
        {rank: _build(found) for rank, found in torch.items()},
        "one build on all ranks" if answers.world_size > 1 else "",
    )


def _build(found: dict[str, Any]) -> str:
    """2.9.1 for CUDA 12.8, NCCL 2.27.5."""
    kind = f"CUDA {found['cuda']}" if found["cuda"] else f"ROCm {found['hip']}" if found["hip"] else "CPUs"
    return f"{found['torch']}, built for {kind}" + (f", NCCL {found['nccl']}" if found["nccl"] else "")


def _torchaudio(answers: Answers, torch: dict[int, dict[str, Any]]) -> Finding:
    if not torch:
        return not_checked("torchaudio", "torch does not work")
    broken = {rank: found["torchaudio_error"] for rank, found in torch.items() if found["torchaudio_error"]}
    if broken:
        return problem("torchaudio", answers.by_value(broken), "imports", "install torchaudio again", broken)
    ending = {True: "", False: ", without its compiled part (not needed)"}
    texts = {rank: f"{found['torchaudio']}{ending[found['extension']]}" for rank, found in torch.items()}
    return _equal(answers, "torchaudio", texts, "one build on all ranks" if answers.world_size > 1 else "")


def _packages(answers: Answers) -> Finding:
    packages = _field(answers, "packages")
    names = [name for name in next(iter(packages.values()), {}) if name not in ("torch", "torchaudio")]
    different = [name for name in names if len({found[name] for found in packages.values()}) > 1]
    if not different:
        found = ", ".join(f"{name} {next(iter(packages.values()))[name] or 'unknown'}" for name in names)
        return ok("packages", found, "one version on all ranks" if answers.world_size > 1 else "")
    texts = {
        rank: ", ".join(f"{name} {found[name] or 'missing'}" for name in different) for rank, found in packages.items()
    }
    return _equal(answers, "packages", texts, "one version on all ranks")


# --- GPUs ------------------------------------------------------------------------------------------------------


def _wants_gpu(answers: Answers) -> bool:
    return answers.config is None or answers.config.train.device != "cpu"


def _driver(answers: Answers, torch: dict[int, dict[str, Any]]) -> Finding:
    """The CUDA of torch's wheel against the CUDA that the driver supports."""
    nvidia = _field(answers, "nvidia")
    present = {rank: found for rank, found in nvidia.items() if found["driver"] or found["cuda"]}
    if not present:
        if any(found["cuda"] for found in torch.values()):
            return ok("GPU driver", "none: no NVIDIA driver here", "")
        return ok("GPU driver", "none, and torch is built for CPUs", "")
    texts = {rank: f"{found['driver'] or '?'}, CUDA up to {found['cuda'] or '?'}" for rank, found in present.items()}
    wheel = {rank: str(found["cuda"] or "") for rank, found in torch.items()}
    # A fault: this rank would use a GPU, and they are not hidden on purpose.
    built_for_cpu = [rank for rank in present if rank in wheel and not wheel[rank] and torch[rank]["fault"]]
    if built_for_cpu:
        return problem(
            "GPU driver", f"{answers.by_value(texts)}, but torch is built for CPUs", "torch built for CUDA",
            "install torch for CUDA (https://pytorch.org), or use --set train.device=cpu", built_for_cpu,
        )  # fmt: skip
    old = [rank for rank in present if _major(present[rank]["cuda"]) < _major(wheel.get(rank, ""))]
    if old:
        wanted = f"CUDA {wheel[old[0]]}, of torch's build"
        advice = f"update the driver, or install torch for CUDA {present[old[0]]['cuda']} or earlier"
        return problem("GPU driver", answers.by_value(texts), wanted, advice, old)
    return _equal(answers, "GPU driver", texts, f"CUDA {next(iter(wheel.values()), '') or '?'}, of torch's build")


def _major(cuda: str) -> int:
    """12 of 12.8: a driver runs all CUDA versions of its major one. 0 where nothing is known."""
    return int(cuda.split(".")[0]) if cuda[:1].isdigit() else 0


def _gpus(answers: Answers, torch: dict[int, dict[str, Any]]) -> Finding:
    """What each rank sees, and whether it can use its own. Two ranks on one GPU, and ranks without one among ranks with
    one, are found when they join the process group (kws/distributed/rank_devices.py)."""
    if not torch:
        return not_checked("GPUs", "torch does not work")
    faults = {rank: found["fault"] for rank, found in torch.items() if found["fault"]}
    if faults:
        advice = "see there; a container needs --gpus all (docker) or --nv (apptainer)"
        return problem("GPUs", answers.by_value(faults), "a GPU that works for each rank", advice, faults)
    return ok("GPUs", answers.by_value({rank: _visible(found) for rank, found in torch.items()}))


def _visible(found: dict[str, Any]) -> str:
    names = [f"{device['name']} ({size_text(device['memory'])})" for device in found["devices"]]
    same = f"{len(names)} x {names[0]}" if len(set(names)) == 1 else ", ".join(names)
    if found["device"] == "cpu":
        return f"{same}, not used: trains on the CPU" if names else "none: trains on the CPU"
    return f"{same} visible"


# --- cores and limits --------------------------------------------------------------------------------------------


def _threads(answers: Answers, torch: dict[int, dict[str, Any]]) -> Finding:
    """torch threads and cores of each rank, against each other and against the cores that the ranks of a node share.

    A training gives all ranks the number of threads that the rank with the fewest cores can use.
    """
    if not torch:
        return not_checked("threads", "torch does not work")
    machine = answers.machine
    values = {rank: (found["threads"], machine[rank]["usable_cores"], machine[rank]["omp_threads"])
              for rank, found in torch.items()}  # fmt: skip
    found = answers.by_value(values, _threads_text)
    trained = {rank: found["group"]["threads"] for rank, found in answers.training.items() if _joined(found)}
    if trained:
        found += f"; a training uses {answers.by_value(trained)}"
    if len(answers.groups(values)) > 1:
        advice = "give all nodes the same --cpus-per-task and OMP_NUM_THREADS, or set train.threads"
        return warning("threads", found, "equal on all ranks", advice, _minority(answers, values))
    over = _oversubscribed(answers, trained)
    if over:
        host, running, bound = over[0]
        advice = "set train.threads, or bind more cores: --cpus-per-task with srun, not with sbatch alone"
        found = f"{_count(running, 'thread')} on {_count(bound, 'core')}" + (
            f" on {host}" if len(answers.nodes) > 1 else ""
        )
        ranks = [rank for name, *_ in over for rank in answers.nodes[name]]
        return warning("threads", found, "no more threads than cores", advice, ranks)
    return ok("threads", found, "no more threads than cores")


def _threads_text(value: tuple[int, int, str]) -> str:
    threads, cores, omp = value
    text = f"{_count(threads, 'torch thread')}, {_count(cores, 'core')}"
    return f"{text}, OMP_NUM_THREADS={omp}" if omp else text


def _joined(found: dict[str, Any]) -> bool:
    return "threads" in found.get("group", {})


def _oversubscribed(answers: Answers, threads: dict[int, int]) -> list[tuple[str, int, int]]:
    """Hosts with more threads than cores that their ranks may use together: host, threads, cores."""
    found = []
    for host, members in answers.nodes.items():
        here = [rank for rank in members if rank in threads and rank in answers.machine]
        cores = {core for rank in here for core in answers.machine[rank]["cores"]}
        running = sum(threads[rank] for rank in here)
        if running > len(cores):
            found.append((host, running, len(cores)))
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _open_files(answers: Answers) -> Finding:
    limits = {rank: found[0] for rank, found in _field(answers, "open_files").items()}
    wanted = max(_OPEN_FILES, answers.world_size + _FILES_OF_RUN)  # rank 0 has a connection to each other rank
    low = [rank for rank, limit in limits.items() if limit is not None and limit < wanted]
    found = answers.by_value(limits, lambda limit: "unlimited" if limit is None else f"{limit:,}")
    if not low:
        return ok("ulimit -n", found, f"{wanted:,} or more")
    advice = f"ulimit -n {wanted} in the job script or in {SITE}"
    return warning("ulimit -n", found, f"{wanted:,} or more", advice, low)


def _shared_memory(answers: Answers) -> Finding:
    """NCCL puts buffers into /dev/shm where a node has several GPUs; nothing else of a training does."""
    found = _field(answers, "shared_memory")
    least = min(found, key=lambda rank: found[rank]["free"] if found[rank] else 0)
    where = f" on {answers.hosts[least]}" if len(answers.nodes) > 1 else ""
    shm = found[least]
    text = f"{size_text(shm['free'])} of {size_text(shm['total'])} free{where}" if shm else f"there is none{where}"
    needed = [
        rank for members in answers.nodes.values() if len(members) > 1 for rank in members if _uses_gpu(answers, rank)
    ]
    low = [rank for rank in needed if rank in found and (not found[rank] or found[rank]["free"] < _SHARED_MEMORY)]
    if not low:
        return ok("/dev/shm", text, "1 GB" if needed else "any: only several GPUs need it")
    advice = "start the container with --shm-size=1g or --ipc=host; remove old files there"
    return warning("/dev/shm", text, "1 GB free, for NCCL", advice, low)


def _uses_gpu(answers: Answers, rank: int) -> bool:
    return bool(answers.machine.get(rank, {}).get("torch", {}).get("devices")) and _wants_gpu(answers)


def _locked_memory(answers: Answers) -> list[Finding]:
    """InfiniBand needs memory that stays in place; only asked where there is InfiniBand."""
    ranks = [rank for rank, found in answers.machine.items() if found["infiniband"]]
    if not ranks:
        return []
    limits = {rank: answers.machine[rank]["locked_memory"][0] for rank in ranks}
    found = answers.by_value(limits, lambda limit: "unlimited" if limit is None else size_text(limit))
    low = [rank for rank, limit in limits.items() if limit is not None]
    if not low:
        return [ok("ulimit -l", found, "unlimited, for InfiniBand")]
    advice = "ask the administrator: PropagateResourceLimitsExcept=MEMLOCK and LimitMEMLOCK=infinity for slurmd"
    return [warning("ulimit -l", found, "unlimited, for InfiniBand", advice, low)]
