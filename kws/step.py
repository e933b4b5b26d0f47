"""One update by all ranks: this rank's slots one after the other, one all-reduce, the optimizer.

batch -> augment -> features -> network (DDP) -> loss / clips of the step -> backward, slot by slot
running statistics and sums -> one all-reduce -> update
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kws import reduction
from kws.audio.augment import Augment
from kws.audio.features import Features
from kws.data.ledger import Ledger
from kws.data.store import Caching
from kws.data.stream import Batch, noise_of
from kws.errors import UsageError
from kws.job import Job
from kws.mixup import Mixup
from kws.optim import lr_at, set_lr
from kws.runtime import Runtime
from kws.slots import RunningStatistics, seed_slot

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
    """Network, front end and optimizer on this rank's device, ready to step."""

    def __init__(
        self, job: Job, network: nn.Module, features: Features, optimizer: torch.optim.Optimizer, runtime: Runtime
    ) -> None:
        self._job, self._settings, self._runtime = job, job.config.train, runtime
        self._network, self._features, self._optimizer = network, features, optimizer
        self._augment = self._build_augment()
        self._statistics = RunningStatistics(network)
        self._reduction = reduction.of(self._settings.reduction, runtime, network)
        self._model = self._reduction.model
        self._model.train()
        if self._reduction.waits:
            self._settle_buckets()

    def step(
        self, batches: Iterator[Batch], clips: int, epoch: int, step: int, flags: Sequence[bool], ledger: Ledger | None
    ) -> Outcome:
        """Update `step` (of the whole run), planned to have `clips` clips in all. A flag that one rank raises is heard
        by all.

        Raises UsageError where the loss is not finite: before the update, so the weights are still those before it.
        """
        share, waited = self._settings.slots // self._runtime.world_size, 0.0
        self._statistics.begin_step()
        self._reduction.begin()
        for number in range(share):
            before = time.perf_counter()
            with self._runtime.alone():
                batch = next(batches)
            waited += time.perf_counter() - before
            if ledger:
                ledger.add(epoch, step, batch.slot, batch.draws.numpy(), batch.clips.numpy())
            last = number == share - 1
            with self._reduction.slot(last):
                figures = self._slot(batch, clips, epoch, step, must_run=last and self._reduction.waits)
            self._reduction.add(figures)
        (loss, correct, found), heard = self._finish(flags)
        if not math.isfinite(loss):
            raise UsageError(
                f"step {step}: the loss is {loss}; the checkpoint before it is kept: "
                "use a lower --set train.lr=... in a new --run"
            )
        if found:
            self._update(step, clips / found)
        return Outcome(loss, correct, int(found), waited, heard)

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

        A slot without clips runs nothing, unless DDP waits for its backward pass: then silence that weighs zero.
        """
        device, clips = self._runtime.device, len(batch.clips)
        if clips == 0:
            if must_run:
                self._silent_backward()
            return torch.cat([self._statistics.end_slot(0), torch.zeros(_SUMS, dtype=torch.float64, device=device)])
        seed_slot(self._settings.seed, step, batch.slot)
        self._statistics.begin_slot(clips)
        mixup, inputs = self._mixup(step, batch), self._inputs(batch, epoch)
        logits = self._model(mixup.features(inputs) if mixup else inputs).float()
        labels = batch.labels.to(device, non_blocking=True)
        smoothing = self._settings.label_smoothing
        if mixup:
            loss, correct = mixup.loss(logits, labels, smoothing), mixup.correct(logits, labels)
        else:
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
            correct = (logits.argmax(dim=1) == labels).sum()
        # The step's loss is the mean over its clips.
        torch.autograd.backward(loss * (self._reduction.loss_scale / step_clips))
        counts = torch.tensor([clips], dtype=torch.float64, device=device)
        return torch.cat([self._statistics.end_slot(clips), torch.stack([loss.detach(), correct]).double(), counts])

    def _mixup(self, step: int, batch: Batch) -> Mixup | None:
        chain, clips = self._job.config.frontend, len(batch.clips)
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

    def _update(self, step: int, scale: float) -> None:
        """The optimizer's step; `scale` makes the mean over the planned clips the mean over those there were."""
        if scale != 1.0:
            torch._foreach_mul_([p.grad for p in self._network.parameters() if p.grad is not None], scale)
        if self._settings.clip_grad_norm:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_grad_norm)
        set_lr(self._optimizer, lr_at(step, self._job.steps_per_epoch, self._settings))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)

    def _build_augment(self) -> Augment | None:
        config = self._job.config
        if not config.frontend.varies:
            return None
        noises, device = noise_of(self._job.index, "train", Caching.of(config.data)), self._runtime.device
        return Augment(config.frontend, self._features, self._settings.seed, noises, self._job.samples, device)

    def _silent_backward(self) -> None:
        """A backward pass whose gradients are zero."""
        self._statistics.begin_slot(clips=1)
        silence = torch.zeros(1, self._job.samples, dtype=torch.int16, device=self._runtime.device)
        torch.autograd.backward(self._model(self._features(silence)).sum() * 0.0)

    def _settle_buckets(self) -> None:
        """Two throw-away backward passes. DDP builds its buckets anew after its first, and gloo's order of addition
        hangs on the place in the bucket: without this a resumed run would add in another order than a whole one."""
        self._statistics.begin_step()
        for _ in range(2):
            self._silent_backward()
        self._statistics.begin_slot(clips=2)
        self._optimizer.zero_grad(set_to_none=False)
