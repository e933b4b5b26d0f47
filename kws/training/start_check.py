"""What a start of a run would be refused for, found without starting it: for `kws train --check`. Writes nothing.

Trainer (constructed, not run) -> each step of Trainer.run that can refuse -> the lines of those that would
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kws.data.index import Index
from kws.data.shard_fetch import ShardSource
from kws.data.store import CacheSettings, require_room
from kws.errors import UsageError
from kws.files import nearest_existing
from kws.run import folder as run_folder
from kws.run import lock
from kws.run.environment import describe_environment
from kws.training.initial import refuse_other_plan
from kws.training.trainer import Trainer


def refusals(trainer: Trainer, node_ranks: Sequence[int]) -> list[str]:
    """Why a start in the trainer's folder would be refused, in the order of a start; [] where it would not.

    The trainer has taken over the position of the folder's newest checkpoint. `node_ranks`: the ranks on this host.
    """
    if unwritable := list(_refused(lambda: _refuse_unwritable_run(trainer.folder))):
        return unwritable
    checks: list[Callable[[], object]] = [
        lambda: lock.refuse_if_in_use(trainer.folder),
        lambda: run_folder.check_settings(
            trainer.folder, trainer.config, trainer.describe() | describe_environment(trainer.ranks)
        ),
        lambda: refuse_other_plan(trainer.folder, trainer.training_set, trainer.state),
        lambda: _refuse_full_disk(trainer),
        lambda: _refuse_small_cache(trainer, node_ranks),
        lambda: _refuse_missing_shards(trainer),
    ]
    return [line for check in checks for line in _refused(check)]


def _refused(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except UsageError as error:
        yield str(error)
    except OSError as error:
        yield f"{error.filename}: {error.strerror}"


def _refuse_unwritable_run(run: Path) -> None:
    place = nearest_existing(run)
    if not place.is_dir():
        raise UsageError(f"{place}: a file; the run needs a folder: use --run ANOTHER_FOLDER")
    written = [place] + [run / name for name in ("checkpoints", "metrics.jsonl", "tensorboard", "ledger")]
    for path in written:
        if path.exists() and not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise UsageError(f"{run}: cannot be written ({path} is write-protected); use --run ANOTHER_FOLDER")


def _refuse_full_disk(trainer: Trainer) -> None:
    """Raises UsageError where the first checkpoint would not fit."""
    train = trainer.config.train
    weights = sum(p.numel() * p.element_size() for p in trainer.network.parameters())
    states = 2 if train.optimizer == "adamw" else int(train.momentum > 0.0)
    needed = weights * (1 + states + int(train.ema > 0.0))
    place = nearest_existing(trainer.folder)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UsageError(
            f"{place}: {free / 1e6:.0f} MB free, a checkpoint needs {needed / 1e6:.0f} MB; free space, or use --run "
            "ANOTHER_FOLDER"
        )


def _refuse_small_cache(trainer: Trainer, node_ranks: Sequence[int]) -> None:
    """As the start does, but the folder of the cache is not created."""
    training_set = trainer.training_set
    index, settings = training_set.index, CacheSettings.from_config(trainer.config.data)
    if not settings.is_used(ShardSource(index.root, index.source)):
        return
    needed = training_set.plan(0 if trainer.done else trainer.epoch).bytes_at_once(node_ranks, trainer.ranks.world_size)
    require_room(index.root, index.source, settings, needed)
    place = nearest_existing(settings.cache_folder)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise UsageError(f"{place}: cannot be written; use another --set data.cache_dir=...")


def _refuse_missing_shards(trainer: Trainer) -> None:
    """Raises UsageError where local shards that the run reads are missing or have another size. Those of a remote
    source are not requested."""
    index, frontend = trainer.training_set.index, trainer.config.frontend
    if ShardSource(index.root, index.source).kind != "folder":
        return
    splits = ["train", "valid"]
    if frontend.noise_probability or frontend.mix_probability:
        splits.append("noise")
    wrong = list(_wrong_shards(index, splits, skip_damaged=trainer.config.data.on_bad == "skip"))
    if wrong:
        more = f", and {len(wrong) - 1} more shards" if len(wrong) > 1 else ""
        raise UsageError(f"{wrong[0]}{more}; the index names them: copy or pack them again")


def _wrong_shards(index: Index, splits: list[str], skip_damaged: bool) -> Iterator[str]:
    source = ShardSource(index.root, index.source)
    for name in splits:
        for shard in index.splits[name].shards if name in index.splits else ():
            if not shard.bytes:  # generated silence has no file (kws/data/silence.py)
                continue
            path = Path(source.address(shard.name))
            try:
                size = path.stat().st_size
            except OSError as error:
                yield f"{path}: cannot be read ({error.strerror})"
                continue
            # Training leaves out a damaged shard with on_bad = "skip"; evaluation never does.
            if size != shard.bytes and not (skip_damaged and name == "train"):
                yield f"{path}: {size} bytes, the index has {shard.bytes}"
