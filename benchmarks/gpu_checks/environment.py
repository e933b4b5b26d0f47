"""Check 0: what is installed, what the GPU is, whether NCCL and everything that kws imports is there; the corpora."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import pkgutil
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import kws
from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import ROOT, Context, Finding
from kws.machine import cpu_name, usable_cores

NEEDED = (
    "torch", "torchaudio", "accelerate", "webdataset", "numpy", "numba", "scipy", "pydantic", "safetensors", "rich",
    "matplotlib", "tensorboard", "soundfile", "soxr",
)  # fmt: skip
OPTIONAL = ("librosa", "deepspeed", "triton", "plotly", "praatio", "zstandard", "pyarrow", "espeakng_loader")


def check(context: Context) -> Finding:
    """Imports every module of kws and describes the machine; makes the corpora for the other checks."""
    finding = Finding()
    versions = {"python": platform.python_version()} | {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    for module in pkgutil.walk_packages(kws.__path__, "kws."):
        if not module.name.endswith("__main__"):
            with finding.part(f"import {module.name}"):
                importlib.import_module(module.name)
    absent = [name for name in (*NEEDED, *OPTIONAL) if not versions[name]]
    finding.add(f"Python {versions['python']}, torch {torch.__version__}", versions=versions, cores=usable_cores())
    finding.add(f"{usable_cores()} cores of {cpu_name()}", cpu=cpu_name())
    if absent:
        finding.add(f"not installed: {', '.join(absent)}")
    finding.expect(Path(kws.__file__).is_relative_to(ROOT), f"kws is imported from {kws.__file__}, not from this tree")
    if context.on_gpu:
        _describe_gpu(finding)
    with finding.part("corpora"):
        corpora.tones(context)
        corpora.clips(context)
        finding.add("corpora made" if context.data is None else f"corpus {context.data}")
    return finding


def _describe_gpu(finding: Finding) -> None:
    properties = torch.cuda.get_device_properties(0)
    facts: dict[str, Any] = {
        "gpu": properties.name, "gpus": torch.cuda.device_count(), "gpu_gb": round(properties.total_memory / 1e9, 1),
        "capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(), "driver": _driver(),
    }  # fmt: skip
    finding.expect(torch.distributed.is_nccl_available(), "torch has no NCCL")
    with contextlib.suppress(Exception):  # its absence is reported above
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    finding.add(
        f"{facts['gpus']} x {facts['gpu']} of {facts['gpu_gb']} GB, driver {facts['driver']}, CUDA {facts['cuda']}, "
        f"cuDNN {facts['cudnn']}, NCCL {facts.get('nccl', 'none')}",
        **facts,
    )


def _driver() -> str:
    """The driver's version; "?" where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.splitlines()[0].strip()
    return "?"


def _version(name: str) -> str:
    """The version of a distribution; "" where it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return ""
