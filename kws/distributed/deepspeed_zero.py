"""DeepSpeed's ZeRO through accelerate: the optimizer's state, and in stage 2 the gradients, are sharded over the ranks.

Everything that kws must know about the two libraries, and the workarounds for them, is in this file. DeepSpeed is
imported only if a run uses it.

    start    resolve_stage(train.zero, launch file) -> create_accelerator -> create_engine(network, optimizer)
    save     save_shards -> zero/*_optim_states.pt, one file per rank
    resume   load_shards; on another number of ranks merge_shards -> load_shards

Source: Rajbhandari et al., "ZeRO: Memory optimizations toward training trillion parameter models", arXiv 1910.02054.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs  # type: ignore[import-untyped]

from kws.config import TrainConfig
from kws.errors import UsageError

_MOST_BUCKET = 500_000_000
"""DeepSpeed's default."""
_TORCH_WRITER = "inline_container"
"""Source file of torch's writer, which its RuntimeErrors name when the disk refuses to write."""


def resolve_stage(setting: int, environ: Mapping[str, str] = os.environ) -> int:
    """ZeRO stage of the run: the setting train.zero, or if that is 0 the stage of accelerate's launch file.

    Raises UsageError if both are given and differ, and if the launch file requests more than stage 1 or 2.
    """
    if environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return setting
    launched = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if launched not in ("1", "2") or environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise UsageError(
            f"accelerate launch: zero_stage {launched or 'none'} found; wanted 1 or 2, and no deepspeed_config_file, "
            "as in launch/zero1.yaml and launch/zero2.yaml"
        )
    if setting not in (0, int(launched)):
        raise UsageError(
            f"train.zero: {setting} wanted, but accelerate's launch file has zero_stage {launched}; "
            f"use --config_file launch/zero{setting}.yaml, or leave train.zero out"
        )
    return int(launched)


class _Plugin(DeepSpeedPlugin):  # type: ignore[misc]
    """accelerate's plugin without two of its steps (accelerate 1.15)."""

    def set_deepspeed_weakref(self) -> None:
        """Does nothing: accelerate would import the transformers library here, which only ZeRO-3 needs."""

    def _deepspeed_config_checks(self) -> None:
        """Does nothing: accelerate would apply other fields of the launch file, but our settings decide."""


def require_group() -> None:
    """Makes a single process a group of one, because DeepSpeed needs a process group."""
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def create_accelerator(settings: TrainConfig, device: torch.device, timeout: timedelta) -> Accelerator:
    """An Accelerator with DeepSpeed enabled. The process group exists already."""
    cpu = device.type == "cpu"
    if cpu:  # accelerate's own cpu=True silently disables DeepSpeed
        os.environ["DS_ACCELERATOR"] = os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    _import_deepspeed()
    with _silence_deepspeed():
        return Accelerator(
            mixed_precision="no",  # our settings decide, not the launcher's
            deepspeed_plugin=_Plugin(hf_ds_config=_deepspeed_config(settings, int(os.environ["WORLD_SIZE"]))),
            # Without a backend, each CPU process runs as if it were alone (accelerate 1.15).
            kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if cpu else "nccl", timeout=timeout)],
        )


def _import_deepspeed() -> None:
    try:
        import deepspeed  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"train.zero: needs the package {error.name}: pip install {error.name}, or use --set train.zero=0"
        ) from error
    # DeepSpeed would compile a CPU op for a minute at its start. We use none of its ops, so we list none.
    deepspeed.ops.__compatible_ops__ = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)  # its own call


def _deepspeed_config(train: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration. The slots of a rank are its accumulation steps; their number depends on world_size."""
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": max(1, train.slots // world_size),
        "gradient_clipping": train.clip_grad_norm,
        "zero_optimization": {"stage": train.zero},
        "timers": {"throughput": {"enabled": False}},  # it would synchronise with the GPU at every forward pass
        # No module counts as safe for lower precision: gradients are added in float32, as DDP adds them.
        "torch_autocast": {
            "enabled": train.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def create_engine(accelerator: Accelerator, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """DeepSpeed's engine for both: parameters become views of flat buffers, the optimizer holds this rank's shard."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # flat buffers need this format
    accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"].update(_bucket_sizes(network))
    with _silence_deepspeed():
        engine, _ = accelerator.prepare(network, optimizer)
    return engine


def _bucket_sizes(network: torch.nn.Module) -> dict[str, int]:
    """Elements of DeepSpeed's buffers: as many as the network has parameters, so that one bucket holds all, as with the
    default of 5e8. DeepSpeed allocates a bucket whole: by default 2 GB on every rank for the smallest network."""
    parameters = sum(each.numel() for each in network.parameters())
    size = min(_MOST_BUCKET, parameters + parameters % 2)  # even: DeepSpeed aligns to two elements
    return {"reduce_bucket_size": size, "allgather_bucket_size": size}


def save_shards(engine: Any, folder: Path) -> None:
    """Writes each rank's optimizer shard, and what all ranks share, into a new folder. Collective.

    Raises UsageError, on the rank concerned, if the disk refuses.
    """
    try:
        with _silence_deepspeed():
            engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and _TORCH_WRITER not in str(error):
            raise
        raise UsageError(
            f"{folder}: checkpoint cannot be written ({error}); free some space, then run the same command again"
        ) from error


def load_shards(engine: Any, folder: Path) -> None:
    """Loads what `save_shards` or `merge_shards` wrote. Collective.

    The files are unpickled, so the folder must belong to a checkpoint whose manifest was checked.
    """
    engine._config.load_universal_checkpoint = (folder / "zero").is_dir()
    with _silence_deepspeed():
        engine.load_checkpoint(str(folder.parent), tag=folder.name)
    engine.optimizer.clip_grad = engine.gradient_clipping()  # from the settings, not from the checkpoint


def num_saved_ranks(folder: Path) -> int:
    """Number of ranks that wrote shards into `folder`."""
    return len(list(folder.glob("*_optim_states.pt")))


def merge_shards(shards: Path, scratch: Path) -> Path:
    """Merges the shards, parameter by parameter, into a universal checkpoint, which any number of ranks can load.

    Works in the folder `scratch`, which is created anew, and returns the merged folder in it. Called by one rank.
    """
    from deepspeed.checkpoint import ds_to_universal  # type: ignore[import-untyped]

    remove_folder(scratch)
    copies, merged = scratch / "parts", scratch / "joined"
    shutil.copytree(shards, copies)
    uses_sgd = [_rename_momentum_to_adam(path) for path in sorted(copies.glob("*_optim_states.pt"))]
    with _silence_deepspeed(), tempfile.TemporaryDirectory() as plain:
        # Through a link, because the conversion uses the folder's name as a regular expression.
        (Path(plain) / "scratch").symlink_to(scratch.resolve())
        ds_to_universal.main(
            argparse.Namespace(
                input_folder=f"{plain}/scratch/parts", output_folder=f"{plain}/scratch/joined", num_extract_workers=1,
                num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=True,
            )
        )  # fmt: skip
    if any(uses_sgd):
        _rename_momentum_to_sgd(merged / "zero")
    return merged


def remove_folder(folder: Path) -> None:
    """Removes a folder and everything in it, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)


def _rename_momentum_to_adam(path: Path) -> bool:
    """Stores SGD's momentum in a shard's file under Adam's two names, the only ones that the conversion supports.

    Returns whether the shard is one of SGD. Without momentum zeros are stored, which is where momentum starts.
    """
    saved = torch.load(path, map_location="cpu", weights_only=False)
    shard = saved["optimizer_state_dict"]
    states, weights = shard["base_optimizer_state"]["state"].values(), shard["single_partition_of_fp32_groups"]
    sgd_states = [(state, w) for state, w in zip(states, weights, strict=True) if "exp_avg" not in state]
    for state, w in sgd_states:
        state["exp_avg"] = state["exp_avg_sq"] = state.pop("momentum_buffer", torch.zeros_like(w))
    torch.save(saved, path)
    return bool(sgd_states)


def _rename_momentum_to_sgd(merged: Path) -> None:
    """Undoes `_rename_momentum_to_adam` in the merged files."""
    for path in merged.rglob("exp_avg.pt"):
        path.rename(path.with_name("momentum_buffer.pt"))
        path.with_name("exp_avg_sq.pt").unlink()


@contextlib.contextmanager
def _silence_deepspeed() -> Iterator[None]:
    """Hides what DeepSpeed prints and warns about; errors are raised as usual."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
