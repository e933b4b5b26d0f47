"""Run on each rank by test_frontend.py: an epoch's slots through reader, augmentation and mixup, as training does it.

frontend_worker.py OUT CONFIG...    each rank writes OUT/CONFIG-RANK.npz per config: the draws, the parameters drawn
                                    for each, and the results
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kws import settings_file
from kws.audio.augment import AugmentationChain
from kws.audio.augment_parameters import AugmentationSampler
from kws.audio.features import Features
from kws.config import Config
from kws.data.reader import Reader, read_noise
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed import process_group
from kws.distributed.ranks import Ranks
from kws.training.mixup import Mixup

EPOCH = 1


def draw_parameters(sampler: AugmentationSampler, draws: np.ndarray) -> np.ndarray:
    """Every parameter of every augmentation step, (B, parameters) float64."""
    parts = [sampler.clip_transforms(draws, EPOCH), sampler.noise_transforms(draws, EPOCH)]
    parts += [sampler.added_noise(draws, EPOCH), sampler.mixed_noise(draws, EPOCH)]
    columns = [getattr(part, field.name) for part in parts for field in dataclasses.fields(part)]
    hidden = sampler.masks(draws, EPOCH, "frames", 2, 20, 101).T
    return np.stack([*columns, sampler.room_indices(draws, EPOCH, 64), *hidden], axis=1).astype(np.float64)


def run_frontend(config: Config, ranks: Ranks) -> dict[str, np.ndarray]:
    """This rank's draws, clips, parameters, features, and features after mixup."""
    training_set, seed = TrainingSet(config), config.train.seed
    features = Features(config.frontend.features)
    chain = AugmentationChain(
        config.frontend, features, seed, read_noise(training_set.index, "train"), training_set.samples, ranks.device
    )
    reader = SlotReader(
        Reader(training_set.index, "train"), training_set.task.class_of, training_set.excerpt, training_set.read_samples
    )
    slots = functools.partial(training_set.plan(EPOCH).rank_slots, ranks.rank, ranks.world_size)
    found: dict[str, list[np.ndarray]] = {"draws": [], "clips": [], "parameters": [], "features": [], "mixed": []}

    def add(batch: Batch) -> None:
        draws = batch.draws.numpy()
        made = chain(batch.wave, batch.lengths.numpy(), draws, EPOCH)
        mixup = Mixup.draw(config.frontend, seed, batch.step, batch.slot, len(draws))
        values = (
            draws,
            batch.clips.numpy(),
            draw_parameters(chain.sampler, draws),
            made.numpy(),
            mixup.features(made).numpy(),
        )
        for name, value in zip(found, values, strict=True):
            found[name].append(value)

    for batch in stream_batches(slots, reader):
        if len(batch.draws):
            add(batch)
    return {name: np.concatenate(values) for name, values in found.items()}


def write_results(out: Path, configs: Sequence[Path], ranks: Ranks) -> None:
    """Writes OUT/CONFIG-RANK.npz of this rank for each config."""
    for path in configs:
        np.savez(out / f"{path.stem}-{ranks.rank}.npz", **run_frontend(settings_file.load(path), ranks))


def main() -> None:
    out, *configs = map(Path, sys.argv[1:])
    with process_group.start(settings_file.load(configs[0]).train) as ranks:
        write_results(out, configs, ranks)
        assert len(ranks.gather(ranks.rank)) == ranks.world_size


if __name__ == "__main__":
    main()
