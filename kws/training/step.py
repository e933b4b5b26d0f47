"""One optimizer step by all ranks: this rank's slots one after the other, the sum over all ranks, the update.

prepared slot (slot_inputs.py) -> network -> loss / clips of the step -> backward pass, slot by slot
gradients, batch-norm statistics, loss and counts -> summed over slots and ranks (gradients.py) -> updated weights

The host waits for the device once in a step, for the loss, the counts and the votes; the next slot is prepared before.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from kws.audio.features import Features
from kws.data.ledger import Ledger
from kws.data.plan import slots_of_rank
from kws.data.stream import Batch
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.distributed.watchdog import SYNCHRONISING
from kws.errors import UsageError
from kws.models import registry
from kws.run.checkpoint import Checkpoint
from kws.training import forward, slot_graph
from kws.training.distillation import Teachers
from kws.training.ema import Ema
from kws.training.forward import NoWatchdog, Progress
from kws.training.gradients import gradient_sync
from kws.training.mixup import Mixup
from kws.training.optim import lr_at
from kws.training.slot_graph import SlotGraph
from kws.training.slot_inputs import PreparedSlot, SlotInputs
from kws.training.slots import RunningStatistics, seed_slot
from kws.training.step_times import StepTimes
from kws.transfers import Download, to_device


class Votes(NamedTuple):
    """Flags that every rank sends in every step. After the reduction a flag is True if any rank set it."""

    stop: bool = False
    """Stop after this step: a signal arrived, or RUN/stop exists."""
    save: bool = False
    """Save a checkpoint after this step."""
    write_failed: bool = False
    """The checkpoint that was being written in the background could not be written."""


class SlotSums(NamedTuple):
    """What slots add up beside gradients, all float64."""

    statistics: Tensor
    """Batch-norm statistics times the number of clips, (X,) (kws/training/slots.py)."""
    loss: Tensor
    """Summed over the clips, in nats, ()."""
    correct: Tensor
    """Number of clips that were classified correctly, ()."""
    clips: Tensor
    """Number of clips, ()."""

    def flat(self) -> Tensor:
        """One vector, (X + 3,), so that a reduction is one collective operation."""
        return torch.cat([self.statistics, torch.stack([self.loss, self.correct, self.clips])])

    @classmethod
    def from_flat(cls, flat: Tensor) -> SlotSums:
        """The inverse of `flat`."""
        statistics, counts = flat[:-3], flat[-3:]
        return cls(statistics, *counts.unbind())


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step as the plan has it: its number in the whole run, its epoch (both from 0), the planned number of clips over
    all slots, and whether it is the last of its epoch."""

    step: int
    epoch: int
    clips: int
    last: bool


@dataclasses.dataclass(frozen=True)
class StepResult:
    """A step over all ranks: loss in nats and correct clips, summed over the clips; clips (fewer than planned where
    damaged ones were skipped); seconds this rank waited for data; the votes of all ranks."""

    loss: float
    correct: float
    clips: int
    waited: float
    votes: Votes


class Stepper:
    """Network, front end and optimizer on this rank's device, ready to step.

    `progress` gets reports of what the rank does next; `times` measures where the time goes. `teachers`: those of
    train.teacher.
    """

    def __init__(
        self, training_set: TrainingSet, network: nn.Module, features: Features, optimizer: torch.optim.Optimizer,
        ranks: Ranks, progress: Progress | None = None, times: StepTimes | None = None,
        teachers: Teachers | None = None,
    ) -> None:  # fmt: skip
        self._times = times or StepTimes()
        self._training_set, self._settings, self._ranks = training_set, training_set.config.train, ranks
        self._progress = progress or NoWatchdog()
        self._slots = len(slots_of_rank(ranks.rank, ranks.world_size, self._settings.slots))
        self._teachers = teachers
        self._inputs = SlotInputs(training_set, features, ranks, self._times, teachers=teachers)
        forward.set_up(network, self._settings)
        self._network = network
        self._body = _body(network, training_set, features) if self._settings.freeze_epochs else ()
        self.ema = Ema(network, self._settings.ema) if self._settings.ema else None
        self._statistics = RunningStatistics(network)
        self._sync = gradient_sync(self._settings, ranks, network, optimizer)
        self._sync.model.train()
        self._forward = forward.ForwardPass(self._sync.model, self._settings, ranks.device, self._progress)
        self._optimizer = optimizer
        self._graph: SlotGraph | None = None
        self._captures = slot_graph.can_capture(self._settings, ranks.device, self._sync.model is not network)
        if self._sync.needs_bucket_warmup:
            self._warm_up_buckets()

    def step(
        self, planned: PlannedStep, batches: Iterator[Batch], votes: Votes, ledger: Ledger | None = None,
        lr_scale: float = 1.0,
    ) -> StepResult:  # fmt: skip
        """Runs one step: this rank's slots, the reduction and the optimizer's update.

        The next slot is prepared while the device computes, unless the step is the last of its epoch. `lr_scale`:
        product of the plateau schedule's reductions so far. Raises UsageError where the loss is not finite: before the
        update, so the weights are still those of the step before.
        """
        self._losses: list[tuple[int, int, int, Tensor]] = []  # slot, first and last draw, loss
        self._statistics.begin_step()
        self._sync.begin_step()
        for number in range(self._slots):
            slot = self._next_slot(batches, planned, ledger)
            last = number == self._slots - 1
            self._run_slot(slot, planned, last)
            if not last:
                self._prepare_ahead(batches, planned.epoch, planned.step)
        totals = self._reduce(votes)
        if not planned.last:
            self._prepare_ahead(batches, planned.epoch, planned.step + 1)
        with self._times.part("update"):
            return self._update(planned, totals, lr_scale)

    # --- the parts of a step ----------------------------------------------------------------------------------

    def _next_slot(self, batches: Iterator[Batch], planned: PlannedStep, ledger: Ledger | None) -> PreparedSlot:
        self._progress.report_progress("reading clips")
        slot = self._inputs.next(batches, planned.epoch, planned.step)
        if ledger:
            batch = slot.batch
            ledger.add(planned.epoch, planned.step, batch.slot, batch.draws.numpy(), batch.clips.numpy())
        return slot

    def _prepare_ahead(self, batches: Iterator[Batch], epoch: int, step: int) -> None:
        self._progress.report_progress("reading clips")
        self._inputs.prepare_ahead(batches, epoch, step)

    def _run_slot(self, slot: PreparedSlot, planned: PlannedStep, last: bool) -> None:
        """Forward and backward pass of one slot.

        A slot without clips runs nothing, or a backward pass of zeros where other ranks wait for its gradients.
        """
        must_run = self._sync.must_run_backward(last)
        self._progress.report_progress(SYNCHRONISING if last or must_run else "computing")
        with self._sync.slot(last):
            if slot.features is not None:
                with self._forward.time_limit(slot.num_clips):
                    sums = self._run_clips(slot, slot.features, planned, must_run)
            else:
                if must_run:
                    self._silent_backward()
                zero = torch.zeros((), dtype=torch.float64, device=self._ranks.device)
                sums = SlotSums(self._statistics.end_slot(0), zero, zero, zero).flat()
        with self._times.part("backward"):
            self._sync.end_slot(sums)

    def _run_clips(self, slot: PreparedSlot, features: Tensor, planned: PlannedStep, waits: bool) -> Tensor:
        """Returns the slot's SlotSums, flat. `waits`: ranks wait for one another in the backward pass."""
        draws, factor = slot.batch.draws.numpy(), self._sync.loss_scale / planned.clips
        factor_here = torch.full((), factor, device=self._ranks.device)
        inputs = features, slot.labels, slot.mixup, slot.probabilities, factor_here
        if self._captures and slot.num_clips == self._settings.micro_batch and not self._graph:
            self._graph = self._capture(inputs)
        seed_slot(self._settings.seed, planned.step, slot.batch.slot)
        self._statistics.begin_slot(slot.num_clips)
        if self._graph and self._graph.fits(inputs):
            with self._times.part("backward"):  # the forward pass too: a graph has no place between them
                sums = self._graph(inputs)
        else:
            sums = self._passes(*inputs, waits=waits, times=self._times)
        self._losses.append((slot.batch.slot, int(draws[0]), int(draws[-1]), SlotSums.from_flat(sums).loss))
        return sums

    def _passes(
        self, features: Tensor, labels: Tensor, mixup: Mixup | None, probabilities: Tensor | None, factor: Tensor,
        waits: bool, times: StepTimes,
    ) -> Tensor:  # fmt: skip
        """Forward and backward pass; returns the slot's SlotSums, flat. The loss, summed over the clips, is multiplied
        by `factor` () for the gradients: the step's loss is the mean over its clips."""
        with times.part("forward"):
            loss, correct = self._loss(self._forward(features), labels, mixup, probabilities)
        self._backward(loss * factor, waits, times)
        clips = len(features)
        count = torch.full((), clips, dtype=torch.float64, device=self._ranks.device)
        return SlotSums(self._statistics.end_slot(clips), loss.detach().double(), correct.double(), count).flat()

    def _capture(self, inputs: tuple[Any, ...]) -> SlotGraph:
        """The passes of a full slot as a graph. Gradients and statistics are afterwards as before."""
        before = [None if p.grad is None else p.grad.clone() for p in self._network.parameters()]
        compute = functools.partial(self._passes, waits=False, times=StepTimes())
        self._statistics.begin_slot(self._settings.micro_batch)
        graph = SlotGraph(compute, inputs)
        for p, gradient in zip(self._network.parameters(), before, strict=True):
            if p.grad is not None:
                p.grad.zero_() if gradient is None else p.grad.copy_(gradient)
        return graph

    def _backward(self, loss: Tensor, waits: bool, times: StepTimes) -> None:
        with times.part("backward"):
            if waits and self._ranks.world_size > 1:
                times.all_reduce_follows(loss)
            self._sync.backward(loss)

    def _loss(
        self, logits: Tensor, labels: Tensor, mixup: Mixup | None, probabilities: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Loss and number of correct clips, summed over the clips, () each. probabilities: the teachers', (B, C)."""
        smoothing = self._settings.label_smoothing
        if mixup:
            loss, correct = mixup.loss(logits, labels, smoothing), mixup.correct(logits, labels)
        else:
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
            correct = (logits.argmax(dim=1) == labels).sum()
        if self._teachers and probabilities is not None:
            loss = self._teachers.loss(logits, probabilities, loss)
        return loss, correct

    def _reduce(self, votes: Votes) -> Download:
        """Sums over slots and ranks; starts the step's only transfer to the host: loss, correct, clips, votes."""
        mine = to_device(torch.tensor([float(vote) for vote in votes], dtype=torch.float64), self._ranks.device)
        with self._times.part("all_reduce"):
            totals, counted = self._sync.reduce(mine)
        sums = SlotSums.from_flat(totals)
        on_the_way = Download(torch.cat([torch.stack(sums[1:]), counted]))
        self._statistics.end_step(sums.statistics, sums.clips)
        return on_the_way

    def _update(self, planned: PlannedStep, totals: Download, lr_scale: float) -> StepResult:
        """Waits for the step's sums, then updates the weights."""
        self._progress.report_progress(SYNCHRONISING)
        loss, correct, clips, *counted = totals.wait().tolist()
        if not math.isfinite(loss):
            self._refuse(loss, planned.step)
        if clips:
            lr = lr_at(planned.step, self._training_set.steps_per_epoch, self._settings, lr_scale)
            # Each slot's loss was divided by the planned number of clips: correct that for clips that were skipped.
            frozen = self._body if planned.epoch < self._settings.freeze_epochs else ()
            self._sync.update(lr, planned.clips / clips, frozen)
            if self.ema:
                self.ema.update(planned.step)
        votes = Votes(*(count > 0 for count in counted))
        return StepResult(loss, correct, int(clips), self._inputs.take_waited(), votes)

    def _refuse(self, loss: float, step: int) -> NoReturn:
        mine = [
            f"slot {slot}, draws {first} to {last}"
            for slot, first, last, own in self._losses
            if not math.isfinite(own.item())
        ]
        where = ", ".join(text for part in self._ranks.gather(mine) for text in part)
        raise UsageError(
            f"step {step}: the loss is {loss} ({where}); the checkpoint before it is kept: "
            "use a lower --set train.lr=... or --set train.clip_grad_norm=1 in a new --run"
        )

    # --- state ------------------------------------------------------------------------------------------------

    @property
    def sharded(self) -> bool:
        """Whether each rank holds only a shard of the optimizer's state, which it alone can save."""
        return self._sync.sharded

    def state_dict(self) -> dict[str, Any] | None:
        """The optimizer's state, for a checkpoint; None where it is sharded."""
        return self._sync.state_dict()

    def save_shards(self, folder: Path) -> None:
        """Writes the shards of the optimizer's state into a new folder, by all ranks together."""
        self._sync.save_shards(folder)

    def load(self, checkpoint: Checkpoint) -> None:
        """Loads the optimizer's state and the averaged weights, by all ranks together."""
        averaged = checkpoint.ema()
        if self.ema and averaged:
            self.ema.load_state_dict(averaged)
        self._sync.load(checkpoint)

    # --- silence ----------------------------------------------------------------------------------------------

    def _silent_backward(self) -> None:
        """A backward pass whose gradients are zero: of a slot like the others, so that nothing else is compiled."""
        clips = self._settings.micro_batch
        self._statistics.begin_slot(clips)
        with self._forward.time_limit(clips):
            loss = self._forward(self._inputs.silence(clips)).sum() * 0.0
            self._backward(loss, waits=True, times=self._times)

    def _warm_up_buckets(self) -> None:
        """Two backward passes whose gradients are discarded.

        DDP rebuilds its buckets after its first backward pass, and the order of addition depends on the place in the
        bucket (seen with gloo): without this a resumed run would add in another order than an uninterrupted one.
        """
        self._statistics.begin_step()
        for _ in range(2):
            self._silent_backward()
        self._statistics.undo_step()
        self._optimizer.zero_grad(set_to_none=False)


def _body(network: nn.Module, training_set: TrainingSet, features: Features) -> list[nn.Parameter]:
    """All parameters but those of the head (train.freeze_epochs)."""
    name, classes = training_set.config.model.name, len(training_set.task.classes)
    head = registry.head_tensor_names(name, classes, features.shape(training_set.samples))
    return [p for key, p in network.named_parameters() if key not in head]
