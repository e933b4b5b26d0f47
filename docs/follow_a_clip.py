"""Follows one clip of a run's first step by numbers, from its tar to its gradient (docs/architecture.md).

usage: python docs/follow_a_clip.py RUN DRAW      RUN: a run folder; DRAW: a draw number of the first step
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from kws.audio.augment import AugmentationChain
from kws.audio.features import Features
from kws.data.ledger import consumed_rows
from kws.data.reader import Reader, read_noise
from kws.data.stream import SlotReader
from kws.data.training_set import TrainingSet
from kws.settings_file import load
from kws.training.network import build_network
from kws.training.optim import lr_at
from kws.training.slots import seed_slot

CPU = torch.device("cpu")


def follow(run: Path, draw: int) -> None:
    """Prints a line for each stage that the draw goes through in step 0."""
    config = load(run / "config.toml")
    train, training_set = config.train, TrainingSet(config)
    number, row = divmod(draw, train.micro_batch)
    slot = training_set.plan(epoch=0).slot(0, number)
    clip = int(slot.clips[row])
    rank = number // (train.slots // train.processes)
    print(f"plan        epoch 0, step 0, slot {number}, row {row} (rank {rank}): draw {slot.draws[row]}, clip {clip}")

    reader, split = Reader(training_set.index, "train"), training_set.index.split("train")
    columns = ("shard", "offset", "length", "word", "speaker", "crc32")
    values = ", ".join(f"{column} {split.values(column, clip)}" for column in columns)
    print(f"index row   train/{clip}: {values}; key {reader.name(clip)}")

    slot_reader = SlotReader(reader, training_set.task.class_of, training_set.excerpt, training_set.read_samples)
    batch = slot_reader.batch(slot)
    print(f"batch       int16 {tuple(batch.wave.shape)}; row {row}: length {batch.lengths[row]}, "
          f"label {batch.labels[row]}, samples from 8000 on {batch.wave[row, 8000:8005].tolist()}")  # fmt: skip

    features = Features(config.frontend.features)
    noise, draws = read_noise(training_set.index, "train"), np.array([draw])
    chain = AugmentationChain(config.frontend, features, train.seed, noise, training_set.samples, CPU)
    shift_ms, added = chain.sampler.shift_ms(draws, 0)[0], chain.sampler.added_noise(draws, 0)
    snr = f"noise at {added.level[0]:.2f} dB" if added.applied[0] else "no noise"
    print(f"parameters  shift {shift_ms:+.2f} ms, {snr}")
    inputs = chain(batch.wave, batch.lengths.numpy(), batch.draws.numpy(), 0)
    mean, most = inputs[row].mean(), inputs[row].max()
    print(f"features    float {tuple(inputs.shape)}; row {row}: mean {mean:.4f}, max {most:.4f}")

    network = build_network(config, len(training_set.task.classes), features.shape(training_set.samples), CPU).train()
    seed_slot(train.seed, 0, number)
    logits = network(inputs)
    print(f"logits      {tuple(logits.shape)}; row {row}: {[round(value, 4) for value in logits[row].tolist()]}")
    losses = cross_entropy(logits, batch.labels, reduction="none", label_smoothing=train.label_smoothing)
    share = losses[row] / train.global_batch
    print(f"loss        {losses[row]:.4f} / {train.global_batch} = {share:.4f} of the step's mean loss")
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(share, list(network.parameters()))])
    print(f"gradient    {len(gradient)} numbers; norm of this clip's share {gradient.norm():.4f}")
    print(f"update      learning rate {lr_at(0, training_set.steps_per_epoch, train):.6f} x AdamW's direction")
    (consumed,) = [record for record in consumed_rows(run).tolist() if record[1] == 0 and record[3] == draw]
    print(f"ledger      epoch, step, slot, draw, clip = {consumed}")


follow(Path(sys.argv[1]), int(sys.argv[2]))
