"""Facts about a rank, found without torch: versions, limits, cores, drivers, host names. Nothing here waits for a
file server or for another rank; names are resolved in threads with a limit."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import hashlib
import os
import platform
import resource
import socket
import sys
import threading
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from kws.doctor.identity import Identity
from kws.machine import cores_of_process, cpu_name, usable_cores

PACKAGES = ("torch", "torchaudio", "accelerate", "deepspeed", "webdataset", "numpy", "numba", "safetensors")
"""Whose versions the ranks must share."""
_SHARED_MEMORY = Path("/dev/shm")
_INFINIBAND = Path("/sys/class/infiniband")
_NVIDIA = Path("/proc/driver/nvidia")

Facts = dict[str, Any]


def describe(identity: Identity) -> Facts:
    """Everything about this rank that needs no other process."""
    return {
        "process": os.getpid(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "kws": f"{_versions(['kws'])['kws'] or 'from PYTHONPATH'} (code {_code_digest()})",
        "packages": _versions(PACKAGES),
        "cpu": cpu_name(),
        "cores": list(cores_of_process()),
        "usable_cores": usable_cores(),
        "machine_cores": os.cpu_count() or 1,
        "omp_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "open_files": _limit(resource.RLIMIT_NOFILE),
        "locked_memory": _limit(resource.RLIMIT_MEMLOCK),
        "shared_memory": _shared_memory(),
        "infiniband": sorted(path.name for path in _INFINIBAND.glob("*")),
        "nvidia": nvidia(),
        "folder": str(Path.cwd()),
        "local_rank": identity.local_rank,
    }


def _code_digest() -> str:
    """Eight digits of a hash of kws's own source: two checkouts of one version may differ."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of installed packages; "" for one that is not installed, or has no metadata."""
    found = {}
    for name in names:
        found[name] = ""
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _limit(which: int) -> list[int | None]:
    """A limit of this process, soft and hard; None: unlimited."""
    return [None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(which)]


def _shared_memory() -> dict[str, int] | None:
    """Size and free bytes of /dev/shm; None where there is none."""
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return None
    return {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}


def nvidia() -> Facts:
    """What the machine has of NVIDIA, by its files: works where torch does not import, or was built for CPUs.

    driver: version of the kernel module, "" without one. cuda: the newest CUDA that the driver's library supports.
    gpus: names of the GPUs in the machine. devices: device files that this process may open, which a container or a
    cgroup of SLURM limits.
    """
    driver, gpus = "", []
    with contextlib.suppress(OSError):
        words = (_NVIDIA / "version").read_text().split()
        driver = next((word for word in words if word[0].isdigit() and "." in word), "")
    for path in sorted(_NVIDIA.glob("gpus/*/information")):
        with contextlib.suppress(OSError):
            lines = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
            gpus.append(lines.get("Model", "?").strip())
    files = [path for path in Path("/dev").glob("nvidia[0-9]*") if os.access(path, os.R_OK | os.W_OK)]
    return {
        "driver": driver,
        "cuda": _cuda_of_driver(),
        "gpus": gpus,
        "devices": len(files),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _cuda_of_driver() -> str:
    """12.4 where the installed driver supports CUDA up to 12.4; "" without its library."""
    version = ctypes.c_int(0)
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return ""
    except (OSError, AttributeError):
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def resolve(names: Iterable[str], limit_s: float) -> dict[str, list[str] | str]:
    """The addresses of each host name, or why it has none: a name server that does not answer is one of the reasons."""
    found: dict[str, list[str] | str] = {}
    answers: dict[str, concurrent.futures.Future[list[str]]] = {}
    for name in dict.fromkeys(names):
        answers[name] = concurrent.futures.Future()
        threading.Thread(target=_resolve, args=(name, answers[name]), daemon=True).start()
    _, waiting = concurrent.futures.wait(answers.values(), limit_s)
    for name, answer in answers.items():
        if answer in waiting:
            found[name] = f"no answer within {limit_s:g} s"
            continue
        error = answer.exception()
        found[name] = str(error) if error else answer.result()
    return found


def _resolve(name: str, answer: concurrent.futures.Future[list[str]]) -> None:
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:  # socket.gaierror is one
        answer.set_exception(OSError(error.strerror or str(error)))
        return
    except UnicodeError as error:  # a name of more than 63 letters
        answer.set_exception(OSError(str(error)))
        return
    answer.set_result(sorted({str(row[4][0]) for row in rows}))
