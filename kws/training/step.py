"""One update by all ranks: this rank's slots one after the other, their sum over all ranks, the optimizer.

batch -> augment, features -> mixup -> network -> loss / clips of the step -> backward, slot by slot
gradients, running statistics and sums -> kws/training/reduction.py -> kws/training/update.py -> averaged weights
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from kws.audio.augment import Augment
from kws.audio.features import Features
from kws.data.ledger import Ledger
from kws.data.store import Caching
from kws.data.stream import Batch, noise_of
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.distributed.watchdog import ADDING_UP
from kws.errors import UsageError
from kws.run.checkpoint import Checkpoint
from kws.training import update
from kws.training.ema import Ema
from kws.training.mixup import Mixup
from kws.training.optim import lr_at
from kws.training.slots import RunningStatistics, seed_slot

_SUMS = 3  # loss, correct, clips


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A step over all ranks: loss in nats and correct clips, summed; clips (fewer than planned where damaged ones were
    left out); this rank's seconds without data; the flags."""

    loss: float
    correct: float
    clips: int
    waited: float
    flags: tuple[bool, ...]


class Stepper:
    """Network, front end and optimizer on this rank's device, ready to step. `note` is told what it is at."""

    def __init__(
        self, training_set: TrainingSet, network: nn.Module, features: Features, optimizer: torch.optim.Optimizer, runtime: Ranks,
        note: Callable[[str], None] = lambda doing: None,
    ) -> None:  # fmt: skip
        self._training_set, self._settings, self._runtime, self._note = (
            training_set,
            training_set.config.train,
            runtime,
            note,
        )
        self._features = features
        self._augment = self._build_augment()
        if self._settings.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(network, self._settings.ema) if self._settings.ema else None
        if self._settings.compile:
            network.compile()
        self._statistics = RunningStatistics(network)
        self._reduction, self._update = update.of(self._settings, runtime, network, optimizer)
        self._model = self._reduction.model
        self._model.train()
        if self._reduction.settles:
            self._settle_buckets(optimizer)

    def step(
        self, batches: Iterator[Batch], clips: int, epoch: int, step: int, flags: Sequence[bool],
        ledger: Ledger | None, scale: float = 1.0,
    ) -> Outcome:  # fmt: skip
        """Update `step` (of the whole run), planned to have `clips` clips in all. A flag that one rank raises is heard
        by all.

        `scale`: what the plateau schedule has come down to. Raises UsageError where the loss is not finite: before the
        update, so the weights are still those before it.
        """
        share, waited = self._settings.slots // self._runtime.world_size, 0.0
        self._losses: list[tuple[int, Tensor, Tensor]] = []  # slot, draws, loss
        self._statistics.begin_step()
        self._reduction.begin()
        for number in range(share):
            self._note("reading clips")
            before = time.perf_counter()
            with self._runtime.alone():
                batch = next(batches)
            waited += time.perf_counter() - before
            if ledger:
                ledger.add(epoch, step, batch.slot, batch.draws.numpy(), batch.clips.numpy())
            last = number == share - 1
            waits = self._reduction.waits(last)
            self._note(ADDING_UP if last or waits else "computing")
            with self._reduction.slot(last):
                figures = self._slot(batch, clips, epoch, step, must_run=waits)
            self._reduction.add(figures)
        (loss, correct, found), heard = self._finish(flags)
        if not math.isfinite(loss):
            self._refuse(loss, step)
        if found:
            self._update.step(lr_at(step, self._training_set.steps_per_epoch, self._settings, scale), clips / found)
            if self.ema:
                self.ema.update(step)
        return Outcome(loss, correct, int(found), waited, heard)

    def _refuse(self, loss: float, step: int) -> NoReturn:
        mine = [
            f"slot {slot}, draws {int(draws[0])} to {int(draws[-1])}"
            for slot, draws, own in self._losses
            if not math.isfinite(own.item())
        ]
        where = ", ".join(text for part in self._runtime.gather(mine) for text in part)
        raise UsageError(
            f"step {step}: the loss is {loss} ({where}); the checkpoint before it is kept: "
            "use a lower --set train.lr=... or --set train.clip_grad_norm=1 in a new --run"
        )

    def _finish(self, flags: Sequence[bool]) -> tuple[list[float], tuple[bool, ...]]:
        """Adds over slots and ranks: running statistics, sums, flags. Returns loss, correct, clips; and the flags."""
        own = torch.tensor([float(flag) for flag in flags], dtype=torch.float64, device=self._runtime.device)
        totals, heard = self._reduction.finish(own)
        sums: list[float] = totals[-_SUMS:].tolist()
        self._statistics.end_step(totals[:-_SUMS], int(sums[2]))
        return sums, tuple(flag > 0 for flag in heard.tolist())

    def _slot(self, batch: Batch, step_clips: int, epoch: int, step: int, must_run: bool) -> Tensor:
        """Forward and backward of one slot; returns what it left in running statistics, then its summed loss, correct
        clips and clips, (X + 3,) float64.

        A slot without clips runs nothing, unless others wait for its backward pass: then silence that weighs zero.
        """
        device, clips = self._runtime.device, len(batch.clips)
        if clips == 0:
            if must_run:
                self._silent_backward()
            return torch.cat([self._statistics.end_slot(0), torch.zeros(_SUMS, dtype=torch.float64, device=device)])
        seed_slot(self._settings.seed, step, batch.slot)
        self._statistics.begin_slot(clips)
        mixup, inputs = self._mixup(step, batch), self._inputs(batch, epoch)
        logits = self._forward(mixup.features(inputs) if mixup else inputs)
        labels = batch.labels.to(device, non_blocking=True)
        smoothing = self._settings.label_smoothing
        if mixup:
            loss, correct = mixup.loss(logits, labels, smoothing), mixup.correct(logits, labels)
        else:
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
            correct = (logits.argmax(dim=1) == labels).sum()
        self._losses.append((batch.slot, batch.draws, loss.detach()))
        # The step's loss is the mean over its clips.
        self._update.backward(loss * (self._reduction.loss_scale / step_clips))
        counts = torch.tensor([clips], dtype=torch.float64, device=device)
        return torch.cat([self._statistics.end_slot(clips), torch.stack([loss.detach(), correct]).double(), counts])

    def _mixup(self, step: int, batch: Batch) -> Mixup | None:
        chain, clips = self._training_set.config.frontend, len(batch.clips)
        if chain.mixup_probability == 0.0:
            return None
        return Mixup(chain, self._settings.seed, step, batch.slot, clips, self._runtime.device)

    def _inputs(self, batch: Batch, epoch: int) -> Tensor:
        """int16 (B, T) -> what the network sees, (B, 1, F, N)."""
        wave = batch.wave.to(self._runtime.device, non_blocking=True)
        with torch.no_grad():
            if self._augment:
                return self._augment(wave, batch.lengths.numpy(), batch.draws.numpy(), epoch)
            plain: Tensor = self._features(wave)
            return plain

    def _forward(self, inputs: Tensor) -> Tensor:
        """Features -> logits, float32."""
        if self._settings.channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        kind = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self._settings.precision]
        with torch.autocast(self._runtime.device.type, kind, enabled=kind is not None):
            logits: Tensor = self._model(inputs)
        return logits.float()

    @property
    def in_parts(self) -> bool:
        """Whether every rank has a part of the optimizer's state, which it alone can save."""
        return self._update.in_parts

    def state_dict(self) -> dict[str, Any] | None:
        """The optimizer's state, for a checkpoint; None where it is in parts."""
        return self._update.state_dict()

    def save(self, folder: Path) -> None:
        """The parts, by all ranks together, to a new folder."""
        self._update.save(folder)

    def load(self, checkpoint: Checkpoint) -> None:
        """Optimizer and averaged weights, by all ranks together."""
        averaged = checkpoint.ema()
        if self.ema and averaged:
            self.ema.load_state_dict(averaged)
        self._update.load(checkpoint)

    def _build_augment(self) -> Augment | None:
        config, chain = self._training_set.config, self._training_set.config.frontend
        if not chain.augments:
            return None
        heard = chain.noise_probability > 0.0 or chain.mix_probability > 0.0
        noises = noise_of(self._training_set.index, "train", Caching.of(config.data)) if heard else []
        return Augment(
            chain, self._features, self._settings.seed, noises, self._training_set.samples, self._runtime.device
        )

    def _silent_backward(self) -> None:
        """A backward pass whose gradients are zero."""
        self._statistics.begin_slot(clips=1)
        silence = torch.zeros(1, self._training_set.samples, dtype=torch.int16, device=self._runtime.device)
        self._update.backward(self._model(self._features(silence)).sum() * 0.0)

    def _settle_buckets(self, optimizer: torch.optim.Optimizer) -> None:
        """Two throw-away backward passes. DDP builds its buckets anew after its first, and gloo's order of addition
        hangs on the place in the bucket: without this a resumed run would add in another order than a whole one."""
        self._statistics.begin_step()
        for _ in range(2):
            self._silent_backward()
        self._statistics.begin_slot(clips=2)
        optimizer.zero_grad(set_to_none=False)
