"""Every setting on one page: typed, checked, with its default; TOML in, TOML out.

`load(path, overrides)` gives a `Config` or raises `UsageError`: unknown keys and wrong types all at once, a line each.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kws.errors import UsageError
from kws.renamed import RENAMED_VALUES, current_value, renamed_note

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Note = Callable[[str], object]
"""Receives a line for the user."""


def _no_note(_: str) -> None:
    """Drops the line."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and in which proportion."""

    __pydantic_config__ = _STRICT

    shards: str = ""
    """Folder of the packed corpus (the one with index/)."""
    task: str = "words"
    """Which words are which classes; `words`: every word of the corpus is a class. Else one of shards/tasks by its name
    (v1-30, v2-35, v1-12, v2-12, v1-12-full), or a FILE.toml of one's own."""
    sampling: Literal["natural", "balanced", "weighted", "power"] = "balanced"
    """natural: every clip once. balanced: equal class totals. weighted, power: with replacement."""
    alpha: float = 0.5
    """For `power`: a clip of a class with n clips weighs n^-alpha. 0 uniform, 1 equal classes."""
    epoch_clips: int = 0
    """Clips an epoch; 0: as many as the train split has."""
    window: int = 4096
    """Draws among which a lane is shuffled."""
    workers: int = 1
    """Loader processes a rank; 0 reads in the training process."""
    silence: float = 0.0
    """With task words: one more class, `silence`, made of the corpus's noise: so many clips for each of the others, in
    every split."""
    clip_seconds: float = 1.0
    """Clips are padded with zeros or cut to their beginning; kws predict takes the loudest stretch of a longer one."""
    verify: Literal["first", "always", "never"] = "first"
    """Check a clip's crc32 the first time it is read, every time, or never."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What a damaged clip or shard does: end the run, or be left out and counted. Transport always ends the run."""
    cache_dir: str = ""
    """Folder for copies of shards, on the node's own disk; "": for remote shards only, below $TMPDIR or ~/.cache."""
    cache_gb: float = 20.0
    """The most that it may hold, in GB (10^9 bytes); shared by all processes of a node."""
    ledger: bool = False
    """Write down every consumed draw, for `kws verify RUN`."""

    def __post_init__(self) -> None:
        _check(self.epoch_clips >= 0, "epoch_clips: wanted 0 or more")
        _check(0.0 <= self.silence <= 1.0, "silence: wanted 0 to 1")
        _check(
            not self.silence or self.task == "words",
            "task, silence: a task has its own classes, and silence only where its file says so; "
            "use --set data.silence=0, or --set data.task=words",
        )
        _check(self.window >= 1, "window: wanted 1 or more draws")
        _check(self.workers >= 0, "workers: wanted 0 or more")
        _check(self.cache_gb > 0.0, "cache_gb: wanted more than 0 GB")
        _check(0.1 <= self.clip_seconds <= 60.0, "clip_seconds: wanted 0.1 to 60")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """Waveform to network input: augmentation, then features.

    The augmentation steps are applied in the order of the fields below, each to a training draw with its own
    probability. Evaluation and prediction apply none of them.
    """

    __pydantic_config__ = _STRICT

    features: Literal["mel32", "mel40", "logmel40", "logmel40_30ms", "mfcc40"] = "logmel40"
    """mel32, mel40: 32 or 40 mel bands in decibels, 128 ms window, 32 ms hop. logmel40, logmel40_30ms: log of 40 mel
    bands, 25 or 30 ms window, 10 ms hop. mfcc40: 40 MFCCs, 30 ms window, 10 ms hop."""
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
        for name in STEPS:
            key = f"{name}_probability"
            _check(0.0 <= getattr(self, key) <= 1.0, f"{key}: wanted 0 to 1")
        _check(0.0 <= self.speed <= 0.5, "speed: wanted 0 to 0.5")
        _check(0.0 <= self.stretch <= 0.5, "stretch: wanted 0 to 0.5")
        _check(0.0 <= self.mix <= 1.0, "mix: wanted 0 to 1")
        _check(self.noise_snr_db[0] <= self.noise_snr_db[1], "noise_snr_db: wanted [low, high]")
        _check(0.0 <= self.amplitude[0] <= self.amplitude[1], "amplitude: wanted [low, high], 0 or more")
        _check(
            0.01 <= self.reverb_seconds[0] <= self.reverb_seconds[1] <= 5.0,
            "reverb_seconds: wanted [low, high] of 0.01 to 5",
        )
        _check(self.mixup_alpha > 0.0, "mixup_alpha: wanted more than 0")
        _check(
            min(self.shift_ms, self.volume_db, self.frame_shift) >= 0,
            "shift_ms, volume_db, frame_shift: wanted 0 or more",
        )
        masks = min(self.time_masks, self.time_mask_ms, self.band_masks, self.band_mask_bands)
        _check(masks >= 0, "time_masks, time_mask_ms, band_masks, band_mask_bands: wanted 0 or more")

    @property
    def augments(self) -> bool:
        """Whether any augmentation step changes training clips (mixup, which combines whole slots, aside)."""
        masks = self.time_masks * self.time_mask_ms + self.band_masks * self.band_mask_bands
        return masks > 0 or any(getattr(self, f"{name}_probability") > 0.0 for name in STEPS if name != "mixup")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    __pydantic_config__ = _STRICT

    name: str = "matchboxnet_3x2x64"
    """One of the names that `kws models` lists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation, and how it is carried out."""

    __pydantic_config__ = _STRICT

    epochs: int = 30
    global_batch: int = 512
    """Clips an update, over all processes."""
    micro_batch: int = 64
    """Clips a slot. global_batch / micro_batch slots; the number of processes must divide them."""
    seed: int = 0
    init: str = ""
    """Start from the weights of a RUN folder or a .safetensors file; what has another shape there, such as the head of
    other classes, starts fresh. A resumed run does not look at it."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 3e-3
    """Highest learning rate."""
    momentum: float = 0.9
    nesterov: bool = True
    """For sgd."""
    weight_decay: float = 1e-3
    decay_all: bool = False
    """Weight decay on norms and biases too."""
    schedule: Literal["cosine", "constant", "step", "onecycle", "plateau"] = "cosine"
    """Of the learning rate, after warm-up. cosine: half a wave to 0. step: times `factor` every `step_epochs`.
    onecycle: no warm-up, up from lr / 25 over 30 % of the run, then down to nothing. plateau: times `factor` where the
    validation loss was no lower for `patience` evaluations."""
    warmup_epochs: float = 1.0
    """Linear rise of the learning rate from 0."""
    step_epochs: int = 50
    factor: float = 0.1
    patience: int = 5
    label_smoothing: float = 0.0
    clip_grad_norm: float = 0.0
    """Largest norm of the gradient; 0: no limit."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them, in networks that can: less memory, the
    same bits, about a third slower."""
    ema: float = 0.0
    """Decay a step of a moving average of the weights, such as 0.999, evaluated beside them and preferred; 0: none."""
    stop_after: int = 0
    """End the run where so many evaluations brought no better accuracy; 0: never."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network's forward pass in training (autocast); features, loss, weights and evaluation stay in float32."""
    compile: bool = False
    """torch.compile: wants a C++ compiler, and minutes at the start."""
    channels_last: bool = False
    """Memory layout of pictures; faster for convolutions on GPUs."""
    sync_batchnorm: bool = False
    """Batch-norm statistics over all slots of a step together: GPUs only, and only with a process a slot."""
    reduction: Literal["fast", "exact"] = "fast"
    """How the slots' gradients are summed. fast: DDP's all-reduce after a process's last slot. exact: a fixed tree over
    the slots, the same bits on 1, 2, 4, ... processes; the slots must be a power of two."""
    zero: Literal[0, 1, 2] = 0
    """DeepSpeed's ZeRO: 1 cuts the optimizer's state over the processes, 2 the gradients too; 0: neither, or what the
    accelerate launch file says (launch/zero1.yaml, zero2.yaml)."""
    processes: int = 0
    """How many must come up; 0: whatever is there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """torch threads a process; 0: as the run began with, at first the machine's cores / its processes (exact: 1)."""
    eval_epochs: int = 1
    """Evaluate on the valid split every so many epochs, and after the last."""
    save_minutes: float = 10.0
    """Also save between epochs this often."""
    hang_s: float = 600.0
    """End the run where no process got on for so many seconds, naming where each is; 0: never. Compiling and saving may
    take longer. So long (a minute at least) a process waits at the start for the others to come."""
    allow_change: str = ""
    """Settings, comma-separated, that a resumed run may have otherwise than it began with, of those in CHANGEABLE."""
    keep: int = 3
    """Newest checkpoints kept; those that a pointer names are kept beside them."""
    log_steps: int = 10
    """Write a line of metrics every so many steps."""
    log_minutes: float = 1.0
    """Where stdout is no terminal: print a line at most this often within an epoch."""
    wandb: str = ""
    """Project at Weights & Biases that gets the curves too; "": none. WANDB_MODE=offline keeps them in the run."""

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, "epochs: wanted 1 or more")
        _check(self.micro_batch >= 2, "micro_batch: wanted 2 or more clips (batch norm needs two)")
        _check(self.global_batch >= self.micro_batch, "global_batch: wanted at least micro_batch")
        _check(
            self.global_batch % self.micro_batch == 0,
            f"global_batch: wanted a multiple of micro_batch ({self.micro_batch})",
        )
        _check(0.0 < self.lr <= 1000.0, "lr: wanted more than 0 and at most 1000")
        _check(0.0 <= self.ema < 1.0, "ema: wanted 0 to below 1, such as 0.999")
        _check(0.0 < self.factor < 1.0, "factor: wanted more than 0 and less than 1")
        _check(min(self.step_epochs, self.patience) >= 1, "step_epochs, patience: wanted 1 or more")
        _check(self.stop_after >= 0, "stop_after: wanted 0 (never) or more")
        _check(not (self.sync_batchnorm and self.device == "cpu"), "sync_batchnorm: GPUs only; use it with device cuda")
        _check(0.0 <= self.label_smoothing < 1.0, "label_smoothing: wanted 0 to below 1")
        _check(min(self.warmup_epochs, self.weight_decay, self.clip_grad_norm) >= 0.0, "rates: wanted 0 or more")
        _check(min(self.processes, self.threads) >= 0, "processes, threads: wanted 0 (automatic) or more")
        _check(
            self.processes == 0 or self.slots % self.processes == 0,
            f"processes: {self.slots} slots (global_batch {self.global_batch} / micro_batch {self.micro_batch}) run on "
            f"{', '.join(str(n) for n in range(1, self.slots + 1) if self.slots % n == 0)} processes, "
            f"not {self.processes}; start one of those, or use another --set train.micro_batch=...",
        )
        _check(
            self.reduction == "fast" or self.slots & (self.slots - 1) == 0,
            f"reduction: exact wants a power of two of slots, not {self.slots} "
            f"(global_batch {self.global_batch} / micro_batch {self.micro_batch}); use another train.micro_batch",
        )
        _check(self.hang_s >= 0.0, "hang_s: wanted 0 (never) or more seconds")
        _check(self.log_minutes >= 0.0, "log_minutes: wanted 0 or more")
        _check(
            not self.zero or self.reduction == "fast",
            "zero, reduction: DeepSpeed adds gradients in an order of its own, never exact; "
            "use --set train.reduction=fast, or --set train.zero=0",
        )
        _check(
            not self.zero or self.precision != "fp16",
            "zero, precision: fp16 wants a gradient scaler, which ZeRO leaves no room for; "
            "use --set train.precision=bf16, or --set train.zero=0",
        )
        _check(min(self.keep, self.log_steps, self.eval_epochs) >= 1, "keep, log_steps, eval_epochs: wanted 1 or more")

    @property
    def slots(self) -> int:
        """M, the slots of a step: the most processes the run can ever use."""
        return self.global_batch // self.micro_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    __pydantic_config__ = _STRICT

    data: DataConfig = DataConfig()
    frontend: FrontEndConfig = FrontEndConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        _check(
            not self.train.zero or self.data.on_bad == "fail",
            "train.zero, data.on_bad: clips left out change the weight of gradients that ZeRO has added up by then; "
            "use --set data.on_bad=fail, or --set train.zero=0",
        )


# What a resumed run may have otherwise than the run it takes up: where and how, never what is computed.
# train.threads and data.task are among them because what they come to must be the same, which run.json tells
# (runfolder.check): a task's file may move.
FREE_TO_CHANGE = frozenset(
    {"data.shards", "data.task", "data.workers", "data.verify", "train.processes", "train.device", "train.eval_epochs"}
    | {"data.on_bad", "data.cache_dir", "data.cache_gb"}
    | {"train.allow_change", "train.init", "train.compile", "train.gradient_checkpointing"}
    | {"train.threads", "train.save_minutes", "train.keep", "train.log_steps", "train.hang_s"}
    | {"train.log_minutes", "train.wandb"}
)


# What may change where train.allow_change names it: how the optimisation goes on, not what it has been.
CHANGEABLE = frozenset(
    f"train.{name}"
    for name in (
        "epochs", "lr", "schedule", "warmup_epochs", "step_epochs", "factor", "patience", "weight_decay", "momentum",
        "nesterov", "label_smoothing", "clip_grad_norm", "stop_after", "precision", "channels_last",
    )
)  # fmt: skip


def load(path: Path, overrides: Sequence[str] = (), note: Note = _no_note) -> Config:
    """Reads the TOML file and applies `a.b=c` overrides. Raises UsageError with every mistake in it.

    `note` is called with a line for each old name that was read (RENAMED_VALUES).
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); wanted a TOML file such as configs/quick.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    _apply(tree, overrides)
    return parse(tree, str(path), note)


def of_overrides(overrides: Sequence[str]) -> Config:
    """The defaults with `a.b=c` overrides laid over them. Raises UsageError with every mistake in them."""
    tree: dict[str, Any] = {}
    _apply(tree, overrides)
    return parse(tree, "--set")


def _apply(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Lays `a.b=c` over the tree. Another preset takes with it what the tree has from its own: a run's config.toml
    lists every step, and would otherwise keep them all."""
    before = tree.get("frontend", {})
    own = current_value("frontend.augment", before.get("augment")) if isinstance(before, dict) else None
    changes: dict[str, Any] = {}
    for text in overrides:
        _override(changes, text)
    wanted = current_value("frontend.augment", changes.get("frontend", {}).get("augment", own))
    if isinstance(own, str) and own in PRESETS and wanted != own:
        of_preset = json.loads(json.dumps(dataclasses.asdict(FrontEndConfig()) | PRESETS[own]))
        kept = ("features", "normalise")
        tree["frontend"] = {k: v for k, v in before.items() if k in kept or v != of_preset.get(k)}
    for text in overrides:
        _override(tree, text)


def parse(tree: Mapping[str, Any], where: str, note: Note = _no_note) -> Config:
    """A tree of plain values -> Config. `where` heads error messages; `note` is as for `load`."""
    tree = _with_preset(_with_current_values(tree, note))
    try:
        # Through JSON, because strict validation takes TOML's arrays as tuples only from there.
        return TypeAdapter(Config).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise UsageError("\n".join(f"{where}: {_mistake(item)}" for item in error.errors())) from None


def preset(name: str, **changes: Any) -> FrontEndConfig:
    """The front end of that preset, with changes."""
    return FrontEndConfig(augment=name, **(PRESETS[name] | changes))  # type: ignore[arg-type]


def _with_current_values(tree: Mapping[str, Any], note: Note) -> Mapping[str, Any]:
    """A copy of the tree in which old names of values are replaced; `note` is called for each."""
    current = dict(tree)
    for key in RENAMED_VALUES:
        section, _, name = key.partition(".")
        values = current.get(section)
        old = values.get(name) if isinstance(values, dict) else None
        new = current_value(key, old)
        if new != old:
            current[section] = {**values, name: new}  # type: ignore[dict-item]
            note(renamed_note(key, old))
    return current


def _with_preset(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with the values of its preset laid beneath; as it is where that is no preset, which is said later."""
    given = tree.get("frontend", {})
    chosen = given.get("augment") if isinstance(given, dict) else None
    if not isinstance(chosen, str) or chosen not in PRESETS:
        return tree
    return {**tree, "frontend": PRESETS[chosen] | given}


def _override(tree: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text}: wanted section.key=value, such as --set train.lr=0.05")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: --set model.name=resnet32
    *sections, key = name.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UsageError(f"--set {text}: {section} is a value, not a section")
    tree[key] = parsed


def _mistake(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "unexpected_keyword_argument":
        near = _nearest(path)
        return f"unknown key {path}" + (f"; did you mean {near}?" if near else f"; there are {', '.join(known_keys())}")
    if item["type"] != "value_error":
        return f"{path}: {item['msg']}, found {item['input']!r}"
    message: str = item["msg"].removeprefix("Value error, ")
    names = message.partition(":")[0].split(", ")
    found = ", ".join(f"{name} = {item['input'][name]!r}" for name in names if name in item["input"])
    return (f"{path}: " if path else "") + message + (f"; found {found}" if found else "")


def _nearest(path: str) -> str | None:
    """The key, the section, or the key without its section that `path` is most like."""
    keys = known_keys()
    sections = {key.partition(".")[0] for key in keys}
    if "." not in path:
        named = [key for key in keys if key.partition(".")[2] == path]
        return named[0] if named else next(iter(difflib.get_close_matches(path, sections, n=1, cutoff=0.5)), None)
    return next(iter(difflib.get_close_matches(path, keys, n=1, cutoff=0.5)), None)


def known_keys() -> list[str]:
    """Every `section.key` there is."""
    return sorted(flatten(Config()))


def flatten(config: Config) -> dict[str, Any]:
    """{"train.lr": 0.003, ...}"""
    tree = dataclasses.asdict(config)
    return {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}


def to_toml(config: Config) -> str:
    """The resolved tree; `parse` of it gives an equal Config."""
    return "\n".join(_lines(config))


def _lines(config: Config) -> Iterator[str]:
    for section, values in dataclasses.asdict(config).items():
        yield f"[{section}]"
        yield from (f"{key} = {_toml_value(value)}" for key, value in values.items())
        yield ""


def _toml_value(value: Any) -> str:
    # JSON's strings, finite numbers, booleans and arrays are TOML's too, but for surrogate pairs and a bare DEL.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def differences(old: Config, new: Config) -> list[str]:
    """One line for each setting that differs and may not differ at a resume.

    Raises UsageError where train.allow_change names what may not change, or is no setting.
    """
    allowed = {name.strip() for name in new.train.allow_change.split(",") if name.strip()}
    allowed = {name if "." in name else f"train.{name}" for name in allowed}
    for name in sorted(allowed - CHANGEABLE):
        raise UsageError(
            f"train.allow_change: {name} cannot change in a run; wanted of "
            f"{', '.join(sorted(key.removeprefix('train.') for key in CHANGEABLE))}"
        )
    was, now = flatten(old), flatten(new)
    return [
        f"{key}: {was[key]!r} there, {now[key]!r} now"
        + (f" (train.allow_change={key.removeprefix('train.')} allows it)" if key in CHANGEABLE else "")
        for key in was
        if was[key] != now[key] and key not in FREE_TO_CHANGE | allowed
    ]
