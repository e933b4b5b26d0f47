"""A run from its start to its end; `Trainer.train` is the loop.

each step: kws/training/step.py        each epoch: save, evaluate, save the result
stop request (signal, RUN/stop): in a step, save after it; in an evaluation, abandon it, a resume repeats it; then leave
with exit code 75. The same command resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

from kws.audio.features import Features
from kws.config import Config
from kws.data.ledger import Ledger
from kws.data.plan import Plan, slots_of_rank
from kws.data.reader import Reader
from kws.data.store import CacheSettings, require_room
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.distributed.watchdog import Watchdog
from kws.evaluation.evaluate import EvaluationData, EvaluationStopped, evaluate_split
from kws.evaluation.split_result import SplitResult
from kws.models.cost import count_parameters
from kws.run import curves, log
from kws.run import folder as run_folder
from kws.run.attempt import Attempt
from kws.run.checkpoint import Checkpoint
from kws.run.display import RunLength
from kws.run.early_stop import Start
from kws.run.environment import describe_environment, environment_notes
from kws.training.distillation import Teachers
from kws.training.network import build_network
from kws.training.network_notes import network_notes
from kws.training.optim import build_optimizer, lr_at
from kws.training.precision_notes import precision_notes
from kws.training.profiling import StepProfile, profile_note
from kws.training.run_checkpoints import RunCheckpoints
from kws.training.start_message import start_message, unreachable_message
from kws.training.state import Meter, TrainState
from kws.training.step import PlannedStep, Stepper, Votes
from kws.training.step_times import StepTimes
from kws.training.time_log import TimeLog
from kws.training.valid_stream import NetworkInTraining, StreamFigures, ValidStreams

FINISHED, PREEMPTED = 0, 75


class Trainer:
    """Everything that a run needs; `run` carries it out. Made by all ranks together."""

    def __init__(self, config: Config, folder: Path, ranks: Ranks) -> None:
        slots_of_rank(
            ranks.rank, ranks.world_size, config.train.slots
        )  # refuses a world size that does not divide the slots
        curves.require_wandb(config.train.wandb)
        # What the run is.
        self.training_set = TrainingSet(
            run_folder.keep_clips(folder, config), run_folder.recorded_task(folder, config.data.task)
        )
        config = self.training_set.config  # with a number for data.clip_seconds = "auto"
        self.config, self.folder, self.ranks = config, folder, ranks
        self.features = Features(config.frontend.features).to(ranks.device)
        in_shape, num_classes = self.features.shape(self.training_set.samples), len(self.training_set.task.classes)
        self.network = build_network(config, num_classes, in_shape, ranks.device)
        self.optimizer = build_optimizer(self.network, config.train)
        self.valid_streams = self._open_valid_streams()
        self.teachers = Teachers.load(self.training_set, ranks.device, run_folder.recorded_teachers(folder))
        # Where it is: saved in every checkpoint.
        self.state = TrainState()
        # What this attempt works with; those without a value are made by `run`.
        self.console = log.make_console(ranks.is_main)
        self.say = self.console.print
        self.checkpoints = RunCheckpoints(
            folder, self.training_set, ranks, self.network, self.features, self.state, self.say
        )
        self.meter, self.epoch_meter = Meter(), Meter()  # since the last line of the log; since the epoch's start
        self.times = StepTimes.on(ranks.device)
        self.ledger: Ledger | None = None
        self.attempt: Attempt
        self.watchdog: Watchdog
        self.reader: SlotReader
        self.valid: EvaluationData
        self.stepper: Stepper
        self.log: log.RunLog
        self.time_log: TimeLog
        self.profile: StepProfile
        self.batches: Iterator[Batch]

    def _open_valid_streams(self) -> ValidStreams | None:
        folder = self.config.train.valid_stream
        if not folder:
            return None
        training_set = self.training_set
        return ValidStreams.open(Path(folder), training_set.task.classes, training_set.index.content_id)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.state.step // self.training_set.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all steps are trained and the last epoch is evaluated."""
        trained_all = self.state.ended or self.state.step == self.training_set.total_steps
        return trained_all and not self.state.evaluation_pending

    def describe(self) -> dict[str, Any]:
        """Facts about the run: network, sizes, corpus, task, steps. `--check` shows them, run.json records them."""
        return {
            "network": self.config.model.name,
            "parameters": count_parameters(self.network),
            "input": self.features.shape(self.training_set.samples),
            "zero": self.config.train.zero,
            "precision_notes": precision_notes(self.config.train, self.ranks.device),
            "network_notes": network_notes(
                self.network, self.config, self.features.shape(self.training_set.samples)[2]
            ),
            **self.training_set.describe(),
            **({"stream_notes": self.valid_streams.notes} if self.valid_streams else {}),
            **({"teachers": self.teachers.describe()} if self.teachers else {}),
            **({"teacher_notes": self.teachers.notes} if self.teachers else {}),
        }

    # --- the loop ---------------------------------------------------------------------------------------------

    def train(self) -> int:
        """Trains to the end, or until a stop is requested. Returns FINISHED or PREEMPTED."""
        self.times.take()  # the start belongs to no step
        while not self.done:
            with closing(self.rest_of_epoch()) as steps:
                for planned in steps:
                    votes = self.train_step(planned)
                    if votes.stop or votes.save or planned.last:
                        self.save()
                    if votes.stop:
                        return PREEMPTED
            if not self.evaluate_epoch():
                return PREEMPTED
        return FINISHED

    def rest_of_epoch(self) -> Generator[PlannedStep, None, None]:
        """The steps of the epoch that are still to be trained: none where only its evaluation is pending."""
        if self.state.evaluation_pending:
            return
        epoch = self.epoch
        plan, first = self.training_set.plan(epoch), self.state.step - epoch * self.training_set.steps_per_epoch
        self.state.planned_epoch, self.state.planned = epoch, plan.digest
        self.meter, self.epoch_meter = Meter(), Meter()
        with closing(self._stream(plan, first)) as self.batches:
            for number in range(first, plan.steps):
                yield PlannedStep(self.state.step, epoch, plan.step_clips(number), last=number + 1 == plan.steps)

    def train_step(self, planned: PlannedStep) -> Votes:
        """One optimizer step. Returns the votes of all ranks."""
        mine = Votes(
            stop=bool(self.attempt.stop),
            save=self.ranks.is_main and self.checkpoints.due,
            write_failed=self.checkpoints.saver.failed,
        )
        with self.profile.step(planned.step):
            result = self.stepper.step(planned, self.batches, mine, self.ledger, self.state.plateau.scale)
        self.time_log.finish()
        self.watchdog.first_step_done()
        self.attempt.stop.begin()
        for meter in (self.meter, self.epoch_meter):
            meter.add(result.loss, result.correct, result.clips, result.waited)
        if result.votes.write_failed:
            self._wait_for_writes()  # raises what the write raised
        self.state.step += 1
        self.state.evaluation_pending = planned.last
        self.log.advance(self.state.step)
        self._log_step(planned.epoch)
        return result.votes

    def evaluate_epoch(self) -> bool:
        """Evaluates the epoch that was just trained, where train.eval_epochs selects it, and saves the result. Returns
        False where a stop was requested before the evaluation was complete."""
        self.attempt.stop.begin()
        done, train = self.epoch, self.config.train
        lr = self._last_lr()  # before the evaluation, which may change the plateau schedule
        values: dict[str, Any] = self.epoch_meter.means("train_")
        improved: list[str] = []
        if done % train.eval_epochs == 0 or done == train.epochs:
            began = time.perf_counter()
            try:
                result = self._evaluate()
                values |= {"valid_loss": result.loss, "valid_accuracy": result.accuracy}
                ema = self.stepper.ema
                if ema:
                    with ema.swapped_in():
                        result = self._evaluate()
                    values |= {"ema_valid_loss": result.loss, "ema_valid_accuracy": result.accuracy}
                with ema.swapped_in() if ema else nullcontext():
                    detection = self._measure_streams()
            except EvaluationStopped:
                return False
            values["eval_seconds"] = time.perf_counter() - began
            improved = self.state.record_evaluation(result.accuracy, result.loss, train)
            if detection:
                values |= detection.values()
                improved += self.state.record_detection(detection)
        self.state.evaluation_pending = False
        # Logged before the save: once saved, a resume skips this evaluation. After a kill in between the line appears
        # twice, and readers take the later one.
        self.log.event("epoch", self.state.step, epoch=done - 1, lr=lr, **values, parts=self.time_log.parts())
        self.save("-evaluated", improved)
        return True

    # --- start and end of an attempt --------------------------------------------------------------------------

    def run(self, start: Start | None = None) -> int:
        """Starts or resumes the run, or finds it finished. Returns FINISHED or PREEMPTED; errors are raised.

        `start`: from `begin_start`, which also notices stop requests that came before this call.
        """
        # A closure over self would keep DDP alive past its process group, and the process would abort at exit.
        state = self.state
        with Attempt(self.folder, self.ranks, self.config.train.hang_s, lambda: state.step, start) as self.attempt:
            self.watchdog = self.attempt.watchdog
            code = self._run_attempt()
            self.ranks.barrier()  # no rank leaves before all are done
        return code

    def _run_attempt(self) -> int:
        ranks, config = self.ranks, self.config
        if self.watchdog.unreachable:
            self.say(unreachable_message(self.watchdog.unreachable))
        if self.teachers:
            self.teachers.refuse_unequal(ranks)
        facts = self.describe() | describe_environment(ranks) | {"ranks": ranks.table(config.train.slots)}
        facts["started_in"] = str(Path.cwd())  # what relative paths in the settings are relative to
        ranks.on_main(lambda: run_folder.check_settings(self.folder, config, facts))
        self.attempt.begin()
        checkpoint = ranks.on_all(self.checkpoints.take_position)
        if self.done:
            self.attempt.write_status(
                "finished", FINISHED
            )  # the last attempt may have been killed before it wrote this
            self.say(f"{self.folder}: already finished, at step {self.state.step}; next: kws evaluate {self.folder}")
            return FINISHED
        recorded = ranks.on_main(lambda: run_folder.recorded_description(self.folder)) if checkpoint else {}
        for line in environment_notes(recorded, facts, config.train.is_deterministic):
            self.say(f"note: {line}")
        ranks.on_main(lambda: run_folder.record_settings(self.folder, config, facts))
        self.say(start_message(self.training_set, facts, self.state.step))
        number = ranks.on_main(lambda: run_folder.begin_attempt(self.folder, self.state.step))
        with ExitStack() as stack:
            self._open(number, stack, [row["host"] for row in facts["ranks"]])
            self._load(checkpoint)
            self.checkpoints.start_clock()
            code = self.train()
            self._wait_for_writes()
            self.time_log.finish(write=True)
            state = "finished" if code == FINISHED else "preempted"
            self.log.event("end", self.state.step, state=state, parts=self.time_log.parts())
        self._say_end(code)
        self.attempt.write_status("finished" if code == FINISHED else "preempted", code)
        return code

    def _open(self, number: int, stack: ExitStack, hosts: Sequence[str]) -> None:
        """Opens what attempt `number` reads from and writes to; `stack` closes it. `hosts`: of each rank."""
        config, ranks = self.config, self.ranks
        if config.data.ledger:
            self.ledger = Ledger(self.folder, number, ranks.rank, self.state.step)
            stack.callback(self.ledger.close)
        self.reader = self._build_reader()
        stack.callback(self.reader.close)
        self.valid = EvaluationData(
            index=self.training_set.index, split="valid", task=self.training_set.task,
            excerpt=self.training_set.excerpt, workers=config.data.workers, device=ranks.device,
            cache_settings=CacheSettings.from_config(config.data),
        )  # fmt: skip
        stack.callback(self.valid.close)
        length = RunLength(config.train.epochs, self.training_set.steps_per_epoch)
        run_log = log.RunLog(self.folder, config, length, self.state.step, self.console, ranks.is_main)
        self.log = stack.enter_context(run_log)
        stack.enter_context(self.checkpoints.saver)
        self.time_log = TimeLog(self.times, ranks, hosts, self.log, self.folder, self.say, self.state.step)
        wanted = config.train.profile_steps
        self.profile = StepProfile(wanted, self.state.step, self.folder / "profile", ranks, self.times, self.watchdog)
        stack.callback(self.profile.close)
        if note := profile_note(wanted, self.state.step, length.steps):
            self.say(note)
        best = self.state.best_accuracy if self.state.best_accuracy >= 0.0 else None
        facts = {"attempt": number, "epoch": self.epoch, "world_size": ranks.world_size, "best": best}
        self.log.event("start", self.state.step, **facts, **dataclasses.asdict(length), steps=length.steps)

    def _build_reader(self) -> SlotReader:
        """One reader for the whole run: it remembers which clips it has checked. Refuses a cache that is too small."""
        training_set, data, caching = self.training_set, self.config.data, CacheSettings.from_config(self.config.data)
        reader = Reader(training_set.index, "train", data.verify, data.on_bad, caching)
        if reader.cached:
            here = self.ranks.node_ranks()
            needed = training_set.plan(self.epoch).bytes_at_once(here, self.ranks.world_size)
            index = training_set.index
            self.ranks.on_all(lambda: require_room(index.root, index.source, caching, needed))
        return SlotReader(
            reader, training_set.task.class_of, training_set.excerpt, training_set.read_samples, data.workers,
            self.ranks.device,
        )  # fmt: skip

    def _say_end(self, code: int) -> None:
        if code == PREEMPTED:
            self.say(f"stopped and saved at step {self.state.step}; run the same command again to resume")
            return
        split = "" if len(self.training_set.index.splits.get("test", ())) else " --split valid"
        best = f"best accuracy on the valid split {self.state.best_accuracy:.2%}"
        self.say(f"{self.folder}: {best}; next: kws evaluate {self.folder}{split}")

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _load(self, checkpoint: Checkpoint | None) -> None:
        """Weights, normalisation and optimizer: from the checkpoint, else from train.init, else as initialised."""
        self.checkpoints.load(checkpoint, self.watchdog)
        self.stepper = Stepper(
            self.training_set, self.network, self.features, self.optimizer, self.ranks, self.watchdog, self.times,
            self.teachers,
        )  # fmt: skip  # wraps the network, so after its weights are loaded
        if checkpoint:
            with self.watchdog.no_time_limit("resuming"):
                self.stepper.load(checkpoint)

    def save(self, suffix: str = "", improved: Sequence[str] = ()) -> None:
        """Saves a checkpoint, as `RunCheckpoints.save`, after what it relies on: ledgers and the list of skipped
        clips."""
        began = time.perf_counter()
        if self.config.data.on_bad == "skip":
            self._record_skipped()
        if self.ledger:
            self.ledger.flush()
        with self.times.part("save"), self.watchdog.no_time_limit("saving"):
            self.ranks.barrier()  # every rank's ledger is on the disk before the checkpoint counts
            name = self.checkpoints.save(self.stepper, self.log, suffix, improved)
        self.log.event("save", self.state.step, checkpoint=name, seconds=time.perf_counter() - began)

    def _wait_for_writes(self) -> None:
        with self.watchdog.no_time_limit("saving"):
            self.checkpoints.wait()

    def _record_skipped(self) -> None:
        """Adds the damaged clips that any rank skipped to RUN/left_out.json."""
        found = {clip for part in self.ranks.gather(self.reader.skipped.tolist()) for clip in part}
        new = self.ranks.on_main(lambda: run_folder.add_skipped_clips(self.folder, found))
        if new:
            self.say(f"{new} more damaged clips were skipped, see {self.folder}/left_out.json")

    # --- parts of a step and of an evaluation -----------------------------------------------------------------

    def _stream(self, plan: Plan, first: int) -> Generator[Batch, None, None]:
        """This rank's batches from step `first` of the epoch on."""
        ranks = self.ranks
        slots = functools.partial(plan.rank_slots, ranks.rank, ranks.world_size, first)
        ahead = functools.partial(plan.needed_shards, ranks.rank, ranks.world_size, first)
        return stream_batches(slots, self.reader, ahead)

    def _evaluate(self) -> SplitResult:
        """The network with its present weights, on the valid split."""

        def should_stop() -> bool:
            self.watchdog.report_progress("evaluating")
            return bool(self.attempt.stop)

        patience = self.watchdog.no_time_limit("compiling") if self.config.train.compile else nullcontext()
        with self.times.part("evaluation"), patience:
            return evaluate_split(
                self.network, self.features, self.valid, self.ranks, should_stop, self.log.evaluation_progress
            )

    def _measure_streams(self) -> StreamFigures | None:
        """What the network with its present weights detects in the valid streams; None without train.valid_stream."""
        if self.valid_streams is None:
            return None

        def should_stop() -> bool:
            self.watchdog.report_progress("evaluating the valid streams")
            return bool(self.attempt.stop)

        samples, classes = self.training_set.samples, self.training_set.task.classes
        network = NetworkInTraining(self.config, self.network, self.features, samples, classes)
        # Ranks without a recording of their own wait for the others.
        patience = self.watchdog.no_time_limit("waiting for the valid streams") if self.ranks.world_size > 1 else None
        with self.times.part("evaluation"), patience or nullcontext():
            return self.valid_streams.measure(network, self.config.train.valid_stream_miss, self.ranks, should_stop)

    def _last_lr(self) -> float:
        """Learning rate of the last update."""
        settings, steps_per_epoch = self.config.train, self.training_set.steps_per_epoch
        return lr_at(self.state.step - 1, steps_per_epoch, settings, self.state.plateau.scale)

    def _log_step(self, epoch: int) -> None:
        step = self.state.step
        if step % self.config.train.log_steps and step % self.training_set.steps_per_epoch:
            return
        memory = {} if self.ranks.gpu_gb is None else {"gpu_gb": self.ranks.gpu_gb}
        values = {"epoch": epoch, "lr": self._last_lr(), **self.meter.means(), **memory}
        self.log.event("step", step, **values, parts=self.time_log.step_line(step))
        self.meter = Meter()
