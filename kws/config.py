"""All settings with their types, defaults, units and checks. kws/settings_file.py reads and writes them as TOML."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
ExcerptRule = Literal["loudest", "start", "middle"]
MOST_PROFILED_STEPS = 100
"""A trace has about a megabyte a slot before compression, and the viewers take some hundred megabytes."""


@contextlib.contextmanager
def _checks() -> Iterator[Callable[[bool, str], None]]:
    """Yields check(condition, message), and at the end raises ValueError with the message of each that failed, a line
    each. A message begins with the names of the settings concerned: `a, b: wanted ...`."""
    failed: list[str] = []
    yield lambda condition, message: None if condition else failed.append(message)
    if failed:
        raise ValueError("\n".join(failed))


def _seconds_or_auto(value: Any) -> Any:
    """Refuses other types in one line; a union of types alone would give a line for each of them."""
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise PydanticCustomError("seconds_or_auto", 'wanted a number of seconds, or "auto"')
    return value


def _run_folders(value: Any) -> Any:
    """One string, in which commas separate several folders, or a list of strings -> a tuple of strings."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) and part for part in value):
        raise PydanticCustomError("run_folders", "wanted a run folder, or a list of them")
    return tuple(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The corpus, how often each clip is drawn, and how clips are read."""

    __pydantic_config__ = _STRICT

    shards: str = ""
    """Folder of the packed corpus, which contains index/."""
    task: str = "words"
    """Maps words to classes. `words`: every word of the corpus is a class. Otherwise the name of a task in shards/tasks
    (v1-30, v2-35, v1-12, v2-12, v1-12-full), a TOML file, or classes between commas: "unknown,silence,stop,go"."""
    sampling: Literal["natural", "balanced", "weighted", "power"] = "balanced"
    """natural: every clip once per epoch. balanced: as many draws of each class. weighted: with replacement, all
    classes equally likely. power: with replacement, see `alpha`."""
    alpha: float = 0.5
    """For sampling = "power": the weight of a clip whose class has n clips is n^-alpha. 0: all clips are equally
    likely; 1: all classes are."""
    epoch_clips: int = 0
    """Draws per epoch; 0: the number of clips in the train split."""
    window: int = 4096
    """Shuffle window, in draws per slot: each lane is shuffled within windows of this length."""
    workers: int = 1
    """Threads per rank that read (and decode) clips ahead of the training; 0: clips are read in the training loop.
    Batches are the same for any number."""
    silence: float = 0.0
    """For task = "words": adds the class `silence`, cut from the corpus's noise, with this fraction of the number of
    all other clips, in every split. 0: no such class."""
    negatives: float = 0.0
    """Fraction of the draws of an epoch that are windows of the corpus's negatives (kws pack --negatives): long
    recordings without the words. They belong to the class `unknown`, which task = "words" then has too. The other draws
    are set by `sampling`. Evaluations have the same fraction of windows. 0: none."""
    clip_seconds: Annotated[float | Literal["auto"], BeforeValidator(_seconds_or_auto)] = "auto"
    """Length of a clip, in seconds. auto: long enough for 99 % of the corpus's train clips and 90 % of those of each
    word, in steps of 0.1 s, from 1 to 5 s. The run records the number and keeps it when it resumes. Shorter recordings
    are padded with zeros at the end; of longer ones a part is used: see `excerpt`."""
    excerpt: ExcerptRule = "loudest"
    """Which part of a recording that is longer than clip_seconds is used, in training, evaluation and prediction.
    loudest: where the level, above the recording's noise floor, adds up to most; start, middle: the first or the middle
    part."""
    verify: Literal["first", "always", "never"] = "first"
    """When a clip's crc32 is checked: the first time the run reads it, every time, or never."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What happens with a damaged clip or shard: fail ends the run; skip leaves its clips out and counts them. Errors
    of the network or the disk always end the run."""
    cache_dir: str = ""
    """Folder on the node's own disk for copies of shards. "": remote shards only, below $TMPDIR or ~/.cache."""
    cache_gb: float = 20.0
    """Largest size of the cache in GB (10^9 bytes), shared by all processes of a node."""
    ledger: bool = False
    """Record every consumed draw, for `kws verify RUN`."""

    def __post_init__(self) -> None:
        with _checks() as check:
            check(self.epoch_clips >= 0, "epoch_clips: wanted 0 or more")
            check(0.0 <= self.silence <= 1.0, "silence: wanted 0 to 1")
            check(
                not self.silence or self.task == "words",
                "task, silence: silence is a setting of task = words only; other tasks define it in their file; "
                "use --set data.silence=0, or --set data.task=words",
            )
            check(0.0 <= self.negatives <= 0.95, "negatives: wanted 0 to 0.95")
            check(self.window >= 1, "window: wanted 1 or more draws")
            check(self.workers >= 0, "workers: wanted 0 or more")
            check(self.cache_gb > 0.0, "cache_gb: wanted more than 0 GB")
            is_length = isinstance(self.clip_seconds, str) or 0.1 <= self.clip_seconds <= 60.0
            check(is_length, "clip_seconds: wanted auto, or 0.1 to 60")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """Waveform to network input: augmentation, then features.

    The augmentation steps are applied in the order of the fields below, each to a training draw with its own
    probability. Evaluation and prediction apply none of them.
    """

    __pydantic_config__ = _STRICT

    features: Literal["mel32", "mel40", "logmel40", "logmel40_30ms", "mfcc40", "logmel40_stream"] = "logmel40"
    """mel32, mel40: 32 or 40 mel bands in decibels, 128 ms window, 32 ms hop. logmel40, logmel40_30ms: log of 40 mel
    bands, 25 or 30 ms window, 10 ms hop. mfcc40: 40 MFCCs, 30 ms window, 10 ms hop. logmel40_stream: as logmel40, but
    without the clip's mean and without frames over the clip's ends, for networks that run on continuous audio."""
    normalise: Literal["none", "corpus"] = "none"
    """corpus: shift and scale each band to mean 0 and standard deviation 1 over the train split."""
    augment: Literal["none", "classic", "modern"] = "modern"
    """Preset for all augmentation settings below (see PRESETS). Explicit settings override the preset."""
    amplitude_probability: float = 0.0
    amplitude: tuple[float, float] = (0.7, 1.1)
    """Multiply the samples by a factor from this range."""
    volume_probability: float = 1.0
    volume_db: float = 6.0
    """Change the volume by up to this many dB, up or down."""
    speed_probability: float = 1.0
    speed: float = 0.1
    """Change the clip's duration by up to this fraction, by resampling: the pitch changes too."""
    speed_about: Literal["start", "middle"] = "middle"
    """Which point of the clip keeps its time when the speed changes."""
    shift_probability: float = 1.0
    shift_ms: float = 100.0
    """Move the clip earlier or later by up to this many ms; the gap is silence, or the rest of a recording
    that is longer than clip_seconds."""
    place: Literal["start", "anywhere"] = "start"
    """Where a recording that is shorter than data.clip_seconds lies in a training clip, before it is moved by shift_ms.
    start: at the beginning, as in evaluation. anywhere: at a random place, as a word in continuous audio."""
    reverb_probability: float = 0.2
    reverb_seconds: tuple[float, float] = (0.1, 0.4)
    """Convolve with the impulse response of a synthetic room; range of its reverberation time (decay by 60 dB)."""
    noise_probability: float = 0.7
    noise_snr_db: tuple[float, float] = (0.0, 25.0)
    """Add background noise to the wave at a signal-to-noise ratio from this range. Needs a noise split; without one
    this step is never applied."""
    stretch_probability: float = 0.0
    stretch: float = 0.2
    """Phase vocoder: change the tempo by up to this fraction; the pitch stays."""
    frame_shift_probability: float = 0.0
    frame_shift: int = 8
    """Move the spectrogram earlier or later by up to this many frames; the gap is zeros."""
    mix_probability: float = 0.0
    mix: float = 0.45
    """Mix the spectrogram with that of background noise, augmented in the same way, at a share of up to this. Needs a
    noise split; without one this step is never applied."""
    time_masks: int = 2
    time_mask_ms: float = 200.0
    """SpecAugment: number of time masks, and the longest in ms (independent of the hop)."""
    band_masks: int = 2
    band_mask_bands: int = 6
    """SpecAugment: number of frequency masks, and the widest in mel bands."""
    mixup_probability: float = 0.0
    mixup_alpha: float = 2.0
    """Mixup: combine pairs of clips of a slot and their labels, with a weight from Beta(alpha, alpha)."""

    def __post_init__(self) -> None:
        with _checks() as check:
            for name in STEPS:
                key = f"{name}_probability"
                check(0.0 <= getattr(self, key) <= 1.0, f"{key}: wanted 0 to 1")
            check(0.0 <= self.speed <= 0.5, "speed: wanted 0 to 0.5")
            check(0.0 <= self.stretch <= 0.5, "stretch: wanted 0 to 0.5")
            check(0.0 <= self.mix <= 1.0, "mix: wanted 0 to 1")
            check(self.noise_snr_db[0] <= self.noise_snr_db[1], "noise_snr_db: wanted [low, high]")
            check(0.0 <= self.amplitude[0] <= self.amplitude[1], "amplitude: wanted [low, high], 0 or more")
            check(
                0.01 <= self.reverb_seconds[0] <= self.reverb_seconds[1] <= 5.0,
                "reverb_seconds: wanted [low, high] of 0.01 to 5",
            )
            check(self.mixup_alpha > 0.0, "mixup_alpha: wanted more than 0")
            check(
                min(self.shift_ms, self.volume_db, self.frame_shift) >= 0,
                "shift_ms, volume_db, frame_shift: wanted 0 or more",
            )
            masks = min(self.time_masks, self.time_mask_ms, self.band_masks, self.band_mask_bands)
            check(masks >= 0, "time_masks, time_mask_ms, band_masks, band_mask_bands: wanted 0 or more")

    @property
    def augments(self) -> bool:
        """Whether any augmentation step changes training clips (mixup, which combines whole slots, aside)."""
        masks = self.time_masks * self.time_mask_ms + self.band_masks * self.band_mask_bands
        steps = any(getattr(self, f"{name}_probability") > 0.0 for name in STEPS if name != "mixup")
        return masks > 0 or steps or self.place != "start"


STEPS = ("amplitude", "volume", "speed", "shift", "reverb", "noise", "stretch", "frame_shift", "mix", "mixup")
"""The augmentation steps that have a `STEP_probability` setting in FrontEndConfig."""
_OFF: dict[str, Any] = {f"{name}_probability": 0.0 for name in STEPS} | {"time_masks": 0, "band_masks": 0}
PRESETS: dict[str, dict[str, Any]] = {
    "none": _OFF,
    # The augmentation chain of a 2018 competition entry that trained image CNNs on mel spectrograms: each of its
    # steps has probability 0.5.
    "classic": _OFF
    | {f"{name}_probability": 0.5 for name in ("amplitude", "speed", "stretch", "frame_shift", "mix")}
    | {"speed": 0.2, "speed_about": "start"},
    "modern": {},
}
"""`frontend.augment` -> the settings that this preset changes from their defaults."""


def preset(name: str, **changes: Any) -> FrontEndConfig:
    """The front-end settings of a preset, with changes."""
    return FrontEndConfig(augment=name, **(PRESETS[name] | changes))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    __pydantic_config__ = _STRICT

    name: str = "matchboxnet_3x2x64"
    """One of the names that `kws models` lists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation, and on which processes and how it runs."""

    __pydantic_config__ = _STRICT

    epochs: int = 30
    """Length of the run."""
    global_batch: int = 512
    """Clips per step (optimizer update), over all processes."""
    micro_batch: int = 64
    """Clips per slot. A step has global_batch / micro_batch slots; the number of processes must divide that number."""
    seed: int = 0
    """Seed of everything random: initial weights, sampling, augmentation, dropout, mixup."""
    init: str = ""
    """Run folder or .safetensors file with initial weights; "": random weights. Weights that it lacks or has in another
    shape, such as the head for other classes, are random. Ignored when the run resumes."""
    freeze_epochs: int = 0
    """Fine-tuning: in so many first epochs only the head is trained: all that depends on the number of classes. 0:
    the whole network from the first step on. Batch-norm statistics follow the data from the start."""
    teacher: Annotated[tuple[str, ...], BeforeValidator(_run_folders)] = ()
    """Knowledge distillation: run folders of trained networks with the same classes, as a list or between commas. The
    network learns their mean probabilities for each augmented clip too; they may have other features. []: none."""
    teacher_temperature: float = 2.0
    """T: logits of teachers and student are divided by it before the softmax; higher: the teachers' less probable
    classes count more."""
    teacher_weight: float = 0.9
    """w: a clip's loss is (1 - w) x its cross entropy + w x T^2 x the divergence (KL) of the student from the teachers.
    The paper found a considerably lower weight of the cross entropy best (arXiv 1503.02531, section 2)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd: with `momentum`, and Nesterov's where `nesterov` is set."""
    lr: float = 3e-3
    """Peak learning rate."""
    momentum: float = 0.9
    """For sgd."""
    nesterov: bool = True
    """For sgd."""
    weight_decay: float = 1e-3
    """Of weight matrices and convolution kernels."""
    decay_all: bool = False
    """Apply weight decay to normalisation parameters and biases too."""
    schedule: Literal["cosine", "constant", "step", "onecycle", "plateau"] = "cosine"
    """Learning-rate schedule after warm-up. cosine: half a cosine wave, down to 0. step: multiplied by `factor` every
    `step_epochs`. onecycle: no warm-up; rises from lr / 25 over 30 % of the run, then falls to almost 0. plateau:
    multiplied by `factor` where the validation loss has not improved for `patience` evaluations."""
    warmup_epochs: float = 1.0
    """Length of the linear warm-up from 0, in epochs; 0: none."""
    step_epochs: int = 50
    """For schedule = "step", in epochs."""
    factor: float = 0.1
    """For the schedules step and plateau."""
    patience: int = 5
    """For schedule = "plateau", in evaluations."""
    label_smoothing: float = 0.0
    """Probability that is distributed over all classes; 0: none."""
    clip_grad_norm: float = 0.0
    """Largest norm of the gradient; larger gradients are scaled down. 0: no limit."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them, in networks that support it: less memory, the
    same bits, about a third slower."""
    ema: float = 0.0
    """Decay per step of an exponential moving average of the weights, such as 0.999; 0: none. The average is evaluated
    too, and evaluation and prediction prefer it."""
    stop_after: int = 0
    """Early stopping: end the run after this many evaluations without a better accuracy; 0: never."""
    valid_stream: str = ""
    """Folder of streams with label tracks, made by `kws mix --split valid`. After each evaluation the network detects
    its words in them; the pointer best_detection names the checkpoint with the fewest false accepts an hour where at
    most `valid_stream_miss` of the words are missed. "": none."""
    valid_stream_miss: float = 0.05
    """Fraction of the words of `valid_stream` that may be missed."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass in training; features, loss, weights and evaluation stay in float32. fp32: on
    GPUs that have TF32, the convolutions of training use it; evaluation and prediction never do."""
    compile: bool = False
    """Use torch.compile, which needs a C++ compiler and takes minutes at the start."""
    cuda_graphs: bool = True
    """On GPUs: start forward and backward pass of a full slot as one CUDA graph, with the same results; small networks
    train faster. Not used with DDP, `zero`, `compile` and `gradient_checkpointing`."""
    channels_last: bool = False
    """Memory layout in which convolutions are faster on GPUs."""
    reduction: Literal["fast", "exact"] = "fast"
    """How the gradients of the slots are summed. fast: DDP's all-reduce after a process's last slot. exact: in a fixed
    tree over the slots, with the same bits on 1, 2, 4, ... processes; the number of slots must be a power of two."""
    deterministic: bool = False
    """On GPUs: only algorithms that give the same bits each time, so that a run that was killed and resumed ends with
    the bits of an uninterrupted one, on the same model of GPU and with the same versions. Slower. On CPUs that is
    always so. reduction = "exact" implies it."""
    zero: Literal[0, 1, 2] = 0
    """Stage of DeepSpeed's ZeRO. 1: the optimizer's state is divided over the processes. 2: the gradients too. 0: none,
    unless the accelerate launch file sets it (launch/zero1.yaml, zero2.yaml)."""
    processes: int = 0
    """Number of processes that must join the run; 0: any number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU of this process (kws/distributed/device.py); the CPU only where no GPU is visible. A GPU that is
    there but cannot be used is an error."""
    threads: int = 0
    """torch threads per process. 0: as many as at the run's first start, which are the cores that each process has for
    itself: its own, where SLURM gives it some, else the machine's divided by its processes (1 with reduction =
    "exact")."""
    eval_epochs: int = 1
    """Evaluate on the valid split every this many epochs, and after the last."""
    save_minutes: float = 10.0
    """Save a checkpoint within an epoch this often, in minutes."""
    hang_s: float = 600.0
    """End the run where a process makes no progress for this many seconds, with the position of each; 0: never.
    Compiling and saving may take longer. At the start, processes wait this long (at least 60 s) for one another."""
    allow_change: str = ""
    """Comma-separated names of settings that may differ when the run resumes, of those in CHANGEABLE."""
    keep: int = 3
    """Number of newest checkpoints that are kept, besides those to which best_accuracy and best_loss point."""
    log_steps: int = 10
    """Write a line of metrics every this many steps."""
    log_minutes: float = 1.0
    """Shortest time between two progress lines within an epoch, in minutes, where stdout is not a terminal."""
    profile: str = ""
    """FROM:TO, such as "100:110": record the steps FROM to TO - 1 of the run, counted from 0, with torch.profiler. ""
    records none. RUN/profile gets a trace for Perfetto and a table of each process; a recorded step takes longer."""
    wandb: str = ""
    """Weights & Biases project that receives the curves too; "": none. With WANDB_MODE=offline they stay in the run
    folder."""

    def __post_init__(self) -> None:
        with _checks() as check:
            check(self.epochs >= 1, "epochs: wanted 1 or more")
            check(self.micro_batch >= 2, "micro_batch: wanted 2 or more clips (batch norm needs two)")
            check(self.global_batch >= self.micro_batch, "global_batch: wanted at least micro_batch")
            if self.global_batch >= self.micro_batch >= 2:
                self._check_slots(check)
            check(0.0 < self.lr <= 1000.0, "lr: wanted more than 0 and at most 1000")
            check(0.0 <= self.ema < 1.0, "ema: wanted 0 to below 1, such as 0.999")
            check(0.0 < self.factor < 1.0, "factor: wanted more than 0 and less than 1")
            check(min(self.step_epochs, self.patience) >= 1, "step_epochs, patience: wanted 1 or more")
            check(0 <= self.freeze_epochs < max(1, self.epochs), "freeze_epochs: wanted 0 to fewer than epochs")
            check(
                not (self.zero and self.freeze_epochs),
                "zero, freeze_epochs: DeepSpeed updates all parameters of a shard; use --set train.zero=0",
            )
            check(self.stop_after >= 0, "stop_after: wanted 0 (never) or more")
            check(0.0 <= self.valid_stream_miss < 1.0, "valid_stream_miss: wanted 0 to below 1")
            check(0.0 <= self.label_smoothing < 1.0, "label_smoothing: wanted 0 to below 1")
            check(self.teacher_temperature > 0.0, "teacher_temperature: wanted more than 0, such as 2")
            check(0.0 <= self.teacher_weight <= 1.0, "teacher_weight: wanted 0 to 1")
            rates = min(self.warmup_epochs, self.weight_decay, self.clip_grad_norm)
            check(rates >= 0.0, "warmup_epochs, weight_decay, clip_grad_norm: wanted 0 or more")
            check(min(self.processes, self.threads) >= 0, "processes, threads: wanted 0 (automatic) or more")
            check(self.hang_s >= 0.0, "hang_s: wanted 0 (never) or more seconds")
            check(self.log_minutes >= 0.0, "log_minutes: wanted 0 or more")
            check(
                not self.profile or self.profile_steps is not None,
                'profile: wanted FROM:TO, such as "100:110" for the steps 100 to 109, counted from 0, and at most '
                f"{MOST_PROFILED_STEPS} of them",
            )
            check(
                not self.zero or self.reduction == "fast",
                "zero, reduction: the order in which DeepSpeed adds gradients is not fixed, so it is never exact; "
                "use --set train.reduction=fast, or --set train.zero=0",
            )
            check(
                not self.zero or self.precision != "fp16",
                "zero, precision: fp16 needs a gradient scaler, which does not work with ZeRO; "
                "use --set train.precision=bf16, or --set train.zero=0",
            )
            check(
                min(self.keep, self.log_steps, self.eval_epochs) >= 1, "keep, log_steps, eval_epochs: wanted 1 or more"
            )

    def _check_slots(self, check: Callable[[bool, str], None]) -> None:
        """Checks of what depends on global_batch / micro_batch, once that is a number."""
        check(
            self.global_batch % self.micro_batch == 0,
            f"global_batch: wanted a multiple of micro_batch ({self.micro_batch})",
        )
        check(
            self.processes == 0 or self.slots % self.processes == 0,
            f"processes: {self.slots} slots (global_batch {self.global_batch} / micro_batch {self.micro_batch}) run on "
            f"{', '.join(str(n) for n in range(1, self.slots + 1) if self.slots % n == 0)} processes, "
            f"not {self.processes}; start one of these numbers, or use another --set train.micro_batch=...",
        )
        check(
            self.reduction == "fast" or self.slots & (self.slots - 1) == 0,
            f"reduction: exact needs a power of two as number of slots, not {self.slots} "
            f"(global_batch {self.global_batch} / micro_batch {self.micro_batch}); use another train.micro_batch",
        )

    @property
    def profile_steps(self) -> tuple[int, int] | None:
        """The first step that `profile` selects, and the one after the last; None where it is "" or wrong."""
        found = re.fullmatch(r"(\d{1,15}):(\d{1,15})", self.profile, re.ASCII)
        if not found:
            return None
        first, end = int(found[1]), int(found[2])
        return (first, end) if 0 < end - first <= MOST_PROFILED_STEPS else None

    @property
    def is_deterministic(self) -> bool:
        """Whether the run uses deterministic algorithms only."""
        return self.deterministic or self.reduction == "exact"

    @property
    def slots(self) -> int:
        """Slots per step, which is the largest number of processes that the run can use."""
        return self.global_batch // self.micro_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    __pydantic_config__ = _STRICT

    data: DataConfig = DataConfig()
    frontend: FrontEndConfig = FrontEndConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        with _checks() as check:
            check(
                not self.train.zero or self.data.on_bad == "fail",
                "train.zero, data.on_bad: skipped clips change the weights of gradients that ZeRO has already added; "
                "use --set data.on_bad=fail, or --set train.zero=0",
            )
