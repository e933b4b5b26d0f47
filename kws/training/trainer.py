"""A run from its start to its end: epochs of steps, saved, evaluated, resumed.

each step: kws/training/step.py; each epoch: save, evaluate, save what came of it; on a signal: save, leave with 75
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from kws import models
from kws.audio.features import Features, Normal
from kws.config import Config
from kws.data import normalisation
from kws.data.ledger import Ledger
from kws.data.plan import Plan, slots_of
from kws.data.store import Caching, require_room
from kws.data.stream import Batch, Reader, stream
from kws.data.training_set import TrainingSet
from kws.distributed import process_group
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import trained
from kws.evaluation.evaluate import Result, Stopped, evaluate_split
from kws.run import curves, log
from kws.run import folder as run_folder
from kws.run.attempt import Attempt
from kws.run.checkpoint import Checkpoint, Checkpoints
from kws.run.display import Course
from kws.run.facts import environment
from kws.run.saver import Saver
from kws.training import network
from kws.training.optim import build_optimizer, lr_at
from kws.training.state import Meter, TrainState
from kws.training.step import Stepper

FINISHED, PREEMPTED = 0, 75


class Trainer:
    """Everything a run needs, made once; `run` carries it out."""

    def __init__(self, config: Config, folder: Path, here: Ranks) -> None:
        self.config, self.folder, self.runtime = config, folder, here
        slots_of(here.rank, here.world_size, config.train.slots)  # refuses a world size that does not fit
        curves.require_wandb(config.train.wandb)
        self.training_set = TrainingSet(config, run_folder.kept_task(folder, config.data.task))
        self._use_normal(None)  # until it is known: a checkpoint may have it
        shape, classes = self.features.shape(self.training_set.samples), len(self.training_set.task.classes)
        self.network = network.build(config, classes, shape, here)
        self.optimizer = build_optimizer(self.network, config.train)
        self.console = log.console(here.is_main)
        self.say = self.console.print
        self.checkpoints = Checkpoints(folder, config.train.keep, self.say)
        self.saver = Saver(self.checkpoints)
        self.state = TrainState()
        self.meter, self.epoch_meter = Meter(), Meter()

    def _use_normal(self, normal: Normal | None) -> None:
        self.normal = normal
        self.features = Features(self.config.frontend.features, normal).to(self.runtime.device)

    def _measure_normal(self) -> Normal | None:
        """What the features are normalised by: measured by one rank, so that it is the same on all."""
        config = self.config
        if config.frontend.normalise == "none":
            return None
        return self.runtime.on_main(
            lambda: normalisation.of(
                self.training_set.index, config.frontend.features, self.training_set.samples, Caching.of(config.data)
            )
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.state.step // self.training_set.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all steps are trained, and the last epoch evaluated."""
        return (self.state.ended or self.state.step == self.training_set.total_steps) and self.state.evaluated

    def describe(self) -> dict[str, Any]:
        """What would run: for `--check` and run.json."""
        return {
            "network": self.config.model.name,
            "parameters": models.count_parameters(self.network),
            "input": self.features.shape(self.training_set.samples),
            "zero": self.config.train.zero,
            **self.training_set.facts(),
        }

    # --- start, story, end ------------------------------------------------------------------------------------

    def run(self) -> int:
        """Starts, resumes, or finds the run finished. Returns FINISHED or PREEMPTED; what ends it early is raised."""
        state = self.state  # not the trainer: nothing may keep DDP alive until after the processes have parted
        with Attempt(self.folder, self.runtime, self.config.train.hang_s, lambda: state.step) as self.session:
            self.watch = self.session.watch
            code = self._start_or_resume()
            self.runtime.barrier()  # nobody leaves before all can
        return code

    def _start_or_resume(self) -> int:
        ranks = self.runtime
        self._say_unreachable()
        facts = self.describe() | environment(ranks) | {"ranks": ranks.table(self.config.train.slots)}
        ranks.on_main(lambda: run_folder.check(self.folder, self.config, facts))
        self.session.begin()
        ranks.together(self._load_newest)
        if self.done:
            self.session.status("finished", FINISHED)  # a kill may have come between the last checkpoint and this
            self.say(f"{self.folder}: finished already, at step {self.state.step}; next: kws evaluate {self.folder}")
            return FINISHED
        ranks.on_main(lambda: run_folder.record(self.folder, self.config, facts))
        self._show_ranks(facts["ranks"])
        attempt = ranks.on_main(lambda: run_folder.begin_attempt(self.folder, self.state.step))
        code = self._train(attempt)
        self.session.status("finished" if code == FINISHED else "preempted", code)
        return code

    def _train(self, attempt: int) -> int:
        config, ranks = self.config, self.runtime
        self.ledger = Ledger(self.folder, attempt, ranks.rank, self.state.step) if config.data.ledger else None
        self.reader = self._build_reader()
        course = Course(config.train.epochs, self.training_set.steps_per_epoch)
        events = log.RunLog(self.folder, config, course, self.state.step, self.console, ranks.is_main)
        with events as self.log, self.saver:
            self._log_start(attempt, course)
            self.stepper = Stepper(
                self.training_set, self.network, self.features, self.optimizer, ranks, self.watch.doing
            )
            if self.resumed_from:
                with self.watch.patiently("resuming"):
                    self.stepper.load(self.resumed_from)
            self.saved_at = time.monotonic()
            finished = self._all_epochs()
            self._settle_saves()
            self.log.event("end", self.state.step, state="finished" if finished else "preempted")
        if finished:
            best = f"best valid accuracy {self.state.best_accuracy:.2%}"
            split = "" if len(self.training_set.index.splits.get("test", ())) else " --split valid"
            self.say(f"{self.folder}: {best}; next: kws evaluate {self.folder}{split}")
        else:
            self.say(f"stopped and saved at step {self.state.step}; the same command goes on from there")
        return FINISHED if finished else PREEMPTED

    def _build_reader(self) -> Reader:
        """One for the whole run: it remembers which clips it has checked. Refuses a cache that is too small."""
        training_set, data, caching = self.training_set, self.config.data, Caching.of(self.config.data)
        reader = Reader(
            training_set.index,
            "train",
            training_set.task.class_of,
            training_set.read_samples,
            data.verify,
            data.on_bad,
            caching,
        )
        if reader.cached:
            mine = self.runtime.node_ranks()
            needed = training_set.plan(self.epoch).bytes_at_once(mine, self.runtime.world_size)
            self.runtime.together(
                lambda: require_room(training_set.index.root, training_set.index.source, caching, needed)
            )
        return reader

    def _all_epochs(self) -> bool:
        """Trains to the end; False where it was stopped and saved before."""
        stopped = False
        while not stopped:
            if not self.state.evaluated and not self._finish_epoch():
                return False
            if self.done:
                return True
            stopped = self._run_epoch()
        return False

    def _run_epoch(self) -> bool:
        """Steps to the epoch's end and saves; True where a stop was asked for, and saved too."""
        epoch = self.epoch
        plan, first = self.training_set.plan(epoch), self.state.step - epoch * self.training_set.steps_per_epoch
        self.state.planned_epoch, self.state.planned = epoch, plan.digest
        self.meter, self.epoch_meter = Meter(), Meter()
        with closing(self._stream(plan, first)) as batches:
            for step in range(first, plan.steps):
                stop, save = self._step(batches, plan.step_clips(step), epoch)
                self.state.step += 1
                self.log.advance(self.state.step)
                self.state.evaluated = step + 1 < plan.steps
                self._log_step(epoch)
                if stop or save or not self.state.evaluated:
                    self._save()
                if stop:
                    return True
        return False

    def _step(self, batches: Iterator[Batch], clips: int, epoch: int) -> tuple[bool, bool]:
        """One update; whether any rank was asked to stop, and whether rank 0 finds it time to save."""
        main = self.runtime.is_main
        flags = (bool(self.session.stop), main and self._time_to_save(), self.saver.failed)
        scale = self.state.plateau.scale
        outcome = self.stepper.step(batches, clips, epoch, self.state.step, flags, self.ledger, scale)
        self.watch.started()
        for meter in (self.meter, self.epoch_meter):
            meter.add(outcome.loss, outcome.correct, outcome.clips, outcome.waited)
        stop, save, unsaved = outcome.flags
        if unsaved:
            self._settle_saves()
        return stop, save

    def _stream(self, plan: Plan, first: int) -> Generator[Batch, None, None]:
        here = self.runtime
        slots = functools.partial(plan.rank_slots, here.rank, here.world_size, first)
        ahead = functools.partial(plan.shards_ahead, here.rank, here.world_size, first)
        return stream(slots, self.reader, self.config.data.workers, here.device.type == "cuda", ahead)

    def _finish_epoch(self) -> bool:
        """Evaluates the epoch that was just trained, and saves what came of it; False where a stop was asked for."""
        done, train = self.epoch, self.config.train
        lr = self._lr()  # before the evaluation, which may move the plateau schedule
        figures: dict[str, Any] = self.epoch_meter.figures("train_")
        better: list[str] = []
        if done % train.eval_epochs == 0 or done == train.epochs:
            began = time.perf_counter()
            try:
                result = self._evaluate()
                figures |= {"valid_loss": result.loss, "valid_accuracy": result.accuracy}
                if self.stepper.ema:
                    with self.stepper.ema.in_place():
                        result = self._evaluate()
                    figures |= {"ema_valid_loss": result.loss, "ema_valid_accuracy": result.accuracy}
            except Stopped:
                return False
            figures["eval_seconds"] = time.perf_counter() - began
            better = self.state.note(result.accuracy, result.loss, train)
        self.state.evaluated = True
        # Before the save, after which a resumed run would not write it: written twice the later counts.
        self.log.event("epoch", self.state.step, epoch=done - 1, lr=lr, **figures)
        self._save("-evaluated", better)
        return True

    def _evaluate(self) -> Result:
        """The network as it is, on the valid split."""
        training_set, data = self.training_set, self.config.data

        def go_on() -> bool:
            self.watch.doing("evaluating")
            return not self.session.stop

        with self.watch.patiently("compiling") if self.config.train.compile else nullcontext():
            return evaluate_split(
                self.network, self.features, training_set.index, "valid", training_set.task, training_set.samples, self.runtime, data.workers,
                Caching.of(data), go_on, self.log.evaluating,
            )  # fmt: skip

    def _lr(self) -> float:
        """Of the update before."""
        return lr_at(
            self.state.step - 1, self.training_set.steps_per_epoch, self.config.train, self.state.plateau.scale
        )

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _load_newest(self) -> None:
        """Goes on from the newest whole checkpoint where there is one: the same on every rank."""
        name = self.runtime.on_main(self._newest_name)
        self.resumed_from: Checkpoint | None = None
        if name is None:
            self._use_normal(self._measure_normal())
            self._load_init()
            return
        checkpoint: Checkpoint = self.checkpoints.named(name)
        self.network.load_state_dict(checkpoint.model())
        self.resumed_from = checkpoint
        self._use_normal(checkpoint.state.get("normal"))
        self.state.load_state_dict(checkpoint.state)
        self._refuse_other_plan()
        self.say(f"{self.folder}: going on from {name}, step {self.state.step} of {self.training_set.total_steps}")

    def _refuse_other_plan(self) -> None:
        """Counts and orders come from numpy's generators, which another version may change."""
        epoch = self.state.planned_epoch
        if self.state.planned and self.training_set.plan(epoch).digest != self.state.planned:
            raise UsageError(
                f"{self.folder}: numpy {np.__version__} draws another plan for epoch {epoch + 1} than the run had; "
                f"install the numpy that {self.folder}/run.json names, or --run ANOTHER_FOLDER for a new run"
            )

    def _load_init(self) -> None:
        """A new run's first weights from elsewhere, where train.init says so."""
        if not self.config.train.init:
            return
        fresh = self.network.state_dict()
        classes = self.training_set.task.classes
        head = models.head(self.config.model.name, len(classes), self.features.shape(self.training_set.samples))
        kept, left = trained.matching(Path(self.config.train.init), fresh, head, classes)
        self.network.load_state_dict(fresh | kept)
        self.say(
            f"{self.config.train.init}: {len(kept)} of {len(fresh)} tensors"
            + (f"; fresh: {', '.join(left)}" if left else "")
        )

    def _newest_name(self) -> str | None:
        """The newest whole checkpoint's. A kill may have come before the pointers to it were moved: so they are now."""
        newest = self.checkpoints.newest()
        if newest is None:
            return None
        for pointer in ("last", *newest.state.get("best", ())):
            self.checkpoints.point(pointer, newest.path)
        return newest.name

    def _save(self, suffix: str = "", better: list[str] | None = None) -> None:
        """A checkpoint of the state as it is, written in a thread: see _settle_saves."""
        began = time.perf_counter()
        if self.config.data.on_bad == "skip":
            self._note_left_out()
        if self.ledger:
            self.ledger.flush()
        with self.watch.patiently("saving"):
            self.runtime.barrier()  # every rank's ledger is on the disk before the checkpoint counts
            if self.stepper.in_parts and not suffix:
                self.runtime.on_main(self.saver.wait)
                self.stepper.save(self.checkpoints.parts(self._name()))
            self.runtime.on_main(lambda: self._submit(suffix, better or []))
        self.saved_at = time.monotonic()
        name = self._name() + suffix
        self.log.event("save", self.state.step, checkpoint=name, seconds=time.perf_counter() - began)

    def _submit(self, suffix: str, better: list[str]) -> None:
        packed, task = self.training_set.selection.packed, self.training_set.task
        corpus: dict[str, Any] = {"corpus_id": packed.content_id, "words": packed.words}
        corpus |= {"task": task.definition.tree(), "classes": task.classes}
        state = self.state.state_dict() | corpus | {"epoch": self.epoch, "best": better, "normal": self.normal}
        self.log.flush()
        if suffix:
            self.saver.save_again(self._name(), suffix, state)
        else:
            ema = self.stepper.ema.state_dict() if self.stepper.ema else None
            self.saver.save(self._name(), state, self.network.state_dict(), self.stepper.state_dict(), ema)

    def _settle_saves(self) -> None:
        """Every rank waits until what was saved is on the disk, its pointers moved."""
        with self.watch.patiently("saving"):
            self.runtime.on_main(self.saver.wait)

    def _name(self) -> str:
        return f"step-{self.state.step:08d}"

    def _time_to_save(self) -> bool:
        return time.monotonic() - self.saved_at >= 60.0 * self.config.train.save_minutes

    def _note_left_out(self) -> None:
        """Which damaged clips were left out, by all ranks and in all starts, to RUN/left_out.json."""
        found = {clip for part in self.runtime.gather(self.reader.skipped.tolist()) for clip in part}
        new = self.runtime.on_main(lambda: run_folder.add_left_out(self.folder, found))
        if new:
            self.say(f"{new} more damaged clips were left out, see {self.folder}/left_out.json")

    # --- what a person sees -----------------------------------------------------------------------------------

    def _say_unreachable(self) -> None:
        if self.watch.unreachable:
            listed = ", ".join(map(str, self.watch.unreachable))
            self.say(
                f"note: ranks {listed} cannot reach rank 0 at {process_group.main_address()}: their end may go unnoticed"
            )

    def _show_ranks(self, ranks: list[dict[str, Any]]) -> None:
        train = self.config.train
        size, left = models.count_parameters(self.network), self.training_set.total_steps - self.state.step
        self.say(f"{self.config.model.name}, {size:,} parameters, {len(self.training_set.task.classes)} classes")
        for line in self.training_set.selection.lines():
            self.say(line)
        self.say(f"{left} steps to go, each of {train.global_batch} clips in {train.slots} slots")
        chain = self.config.frontend
        if (chain.noise_probability or chain.mix_probability) and not len(
            self.training_set.index.splits.get("noise", ())
        ):
            self.say(f"note: {self.training_set.index.root} has no noise recordings: trained without noise")
        threads = f"{self.runtime.threads} torch thread{'s' if self.runtime.threads > 1 else ''} each"
        self.say(f"{len(ranks)} process{'es' if len(ranks) > 1 else ''}, {threads}")
        for row in ranks:
            self.say("  rank {rank}  {host}  {device}  slots {slots}".format(**row))

    def _log_start(self, attempt: int, course: Course) -> None:
        best = self.state.best_accuracy if self.state.best_accuracy >= 0.0 else None
        facts = {"attempt": attempt, "epoch": self.epoch, "world_size": self.runtime.world_size, "best": best}
        self.log.event("start", self.state.step, **facts, **dataclasses.asdict(course), steps=course.steps)

    def _log_step(self, epoch: int) -> None:
        step = self.state.step
        if step % self.config.train.log_steps and step % self.training_set.steps_per_epoch:
            return
        memory = {} if self.runtime.gpu_gb is None else {"gpu_gb": self.runtime.gpu_gb}
        self.log.event("step", step, epoch=epoch, lr=self._lr(), **self.meter.figures(), **memory)
        self.meter = Meter()
