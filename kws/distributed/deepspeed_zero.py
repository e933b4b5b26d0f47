"""DeepSpeed's ZeRO through accelerate: the optimizer's state, in stage 2 the gradients too, cut over the ranks. All
that kws must know and mend of the two is here; DeepSpeed is imported only where a run asks for it.

    train.zero or the launch file -> stage -> Accelerator -> engine(network, optimizer): backward, step
    engine -> save -> zero/*_optim_states.pt, a file a rank -> load, or of another number of ranks -> join -> load

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

_TORCH_WRITER = "inline_container"
"""What its RuntimeErrors name where a disk refuses."""


def resolve_stage(wanted: int, environ: Mapping[str, str] = os.environ) -> int:
    """`train.zero`, or where that is 0 what accelerate launch was told by its file. Raises UsageError where both speak
    and differ."""
    if environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return wanted
    said = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if said not in ("1", "2") or environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise UsageError(
            f"accelerate launch: zero_stage {said or 'none'} found; wanted 1 or 2, and no deepspeed_config_file, "
            "as in launch/zero1.yaml and launch/zero2.yaml"
        )
    if wanted not in (0, int(said)):
        raise UsageError(
            f"train.zero: {wanted} wanted, but accelerate's launch file says zero_stage {said}; "
            f"use --config_file launch/zero{wanted}.yaml, or leave train.zero out"
        )
    return int(said)


class _Plugin(DeepSpeedPlugin):  # type: ignore[misc]
    """accelerate's, which (1.15) asks for the transformers library to tell it something that only ZeRO-3 needs; and
    which would have what a launch file says beside the stage, where our settings decide."""

    def set_deepspeed_weakref(self) -> None:
        """Nobody asks for it."""

    def _deepspeed_config_checks(self) -> None:
        """All is set here."""


def create_accelerator(settings: TrainConfig, cpu: bool, timeout: timedelta) -> Accelerator:
    """Joins the other processes, with DeepSpeed. A process alone gets a group of one."""
    _alone_is_one_of_one()
    if cpu:  # accelerate's own cpu=True switches DeepSpeed off without a word
        os.environ["DS_ACCELERATOR"] = os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    _import_deepspeed()
    with _quiet():
        return Accelerator(
            mixed_precision="no",  # the settings decide, not what the launcher was told
            deepspeed_plugin=_Plugin(hf_ds_config=_settings(settings, int(os.environ["WORLD_SIZE"]))),
            # Without a backend each CPU process believes itself alone (accelerate 1.15).
            kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if cpu else "nccl", timeout=timeout)],
        )


def _import_deepspeed() -> None:
    import deepspeed  # type: ignore[import-untyped]

    # At its start it would compile an op for the CPU for a minute; none is used, so none is there.
    deepspeed.ops.__compatible_ops__ = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)  # its own call


def _alone_is_one_of_one() -> None:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if "RANK" not in os.environ:
        os.environ.update(alone)


def _settings(train: TrainConfig, ranks: int) -> dict[str, Any]:
    """DeepSpeed's own configuration. The slots of a rank are its accumulation, which changes with their number."""
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": max(1, train.slots // ranks),
        "gradient_clipping": train.clip_grad_norm,
        "zero_optimization": {"stage": train.zero},
        "timers": {"throughput": {"enabled": False}},  # which would wait for the GPU at every forward pass
        # No module is "safe": gradients are added in float32, as DDP adds them.
        "torch_autocast": {
            "enabled": train.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def create_engine(accelerator: Accelerator, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """DeepSpeed's engine around both: the network's parameters become views of flat buffers, the optimizer's those of
    this rank's part."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # flat buffers know no other
    with _quiet():
        prepared, _ = accelerator.prepare(network, optimizer)
    return prepared


def save_shards(engine: Any, folder: Path) -> None:
    """Every rank's part of the optimizer, and what belongs to all, to a new folder; by all ranks together. Raises
    UsageError where the disk refuses, on the rank that met it."""
    try:
        with _quiet():
            engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and _TORCH_WRITER not in str(error):
            raise
        raise UsageError(
            f"{folder}: checkpoint cannot be written ({error}); make room, then run the same again"
        ) from error


def load_shards(engine: Any, folder: Path) -> None:
    """What `save` or `join` wrote, which is unpickled: only from a checkpoint whose manifest was checked."""
    engine._config.load_universal_checkpoint = (folder / "zero").is_dir()
    with _quiet():
        engine.load_checkpoint(str(folder.parent), tag=folder.name)
    engine.optimizer.clip_grad = engine.gradient_clipping()  # the setting decides, not what was saved


def num_saved_ranks(folder: Path) -> int:
    """How many ranks saved there."""
    return len(list(folder.glob("*_optim_states.pt")))


def merge_shards(parts: Path, scratch: Path) -> Path:
    """Joins the ranks' parts, parameter by parameter, in a new folder of the new folder `scratch`, which any number of
    ranks can load (DeepSpeed's universal checkpoint). By one rank."""
    from deepspeed.checkpoint import ds_to_universal  # type: ignore[import-untyped]

    remove_folder(scratch)
    copies, joined = scratch / "parts", scratch / "joined"
    shutil.copytree(parts, copies)
    momenta = [_as_adam(path) for path in sorted(copies.glob("*_optim_states.pt"))]
    with _quiet(), tempfile.TemporaryDirectory() as plain:
        # By another name, because the conversion takes the folder's for a regular expression.
        (Path(plain) / "scratch").symlink_to(scratch.resolve())
        ds_to_universal.main(
            argparse.Namespace(
                input_folder=f"{plain}/scratch/parts", output_folder=f"{plain}/scratch/joined", num_extract_workers=1,
                num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=True,
            )
        )  # fmt: skip
    if any(momenta):
        _as_sgd(joined / "zero")
    return joined


def remove_folder(folder: Path) -> None:
    """With all that is in it, where it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _as_adam(path: Path) -> bool:
    """A part's momentum under Adam's two names, the only ones that the conversion knows; whether it is SGD's. Without
    momentum there are zeros, from which any would start."""
    saved = torch.load(path, map_location="cpu", weights_only=False)
    part = saved["optimizer_state_dict"]
    states, weights = part["base_optimizer_state"]["state"].values(), part["single_partition_of_fp32_groups"]
    of_sgd = [(state, w) for state, w in zip(states, weights, strict=True) if "exp_avg" not in state]
    for state, w in of_sgd:
        state["exp_avg"] = state["exp_avg_sq"] = state.pop("momentum_buffer", torch.zeros_like(w))
    torch.save(saved, path)
    return bool(of_sgd)


def _as_sgd(joined: Path) -> None:
    """Its own name again."""
    for path in joined.rglob("exp_avg.pt"):
        path.rename(path.with_name("momentum_buffer.pt"))
        path.with_name("exp_avg_sq.pt").unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what DeepSpeed prints and warns of itself; errors are raised as ever."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
