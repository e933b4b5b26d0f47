"""From the options of a command to the settings of a detector: preset, smoothing, and where the threshold comes from.

--threshold                     that
--at FA_PER_HOUR                the stored threshold for so many false accepts an hour
neither                         the stored threshold, for the number for which it was chosen
nothing stored for this network the threshold of the preset, 0.5 by default
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kws.errors import UsageError, did_you_mean
from kws.streaming import thresholds
from kws.streaming.counting import RULES, CountingRules
from kws.streaming.events import PRESETS, DetectorSettings
from kws.streaming.thresholds import ThresholdFile

DEFAULT_PRESET = "kws"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """The options of the command line; "" and None: not given. threshold: 0.8, or yes=0.8,no=0.7."""

    preset: str = ""
    threshold: str = ""
    per_hour: float | None = None
    smooth_ms: float | None = None
    refractory_ms: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """How scores become events and how these are counted.

    source: where the threshold comes from, as text. stored: the thresholds it was taken from, if it was.
    """

    preset: str
    settings: DetectorSettings
    rules: CountingRules
    source: str
    stored: ThresholdFile | None = None

    def with_threshold(self, threshold: float, source: str) -> Detection:
        """The same with another threshold."""
        return dataclasses.replace(
            self, settings=dataclasses.replace(self.settings, threshold=threshold), source=source, stored=None
        )

    @property
    def threshold_text(self) -> str:
        """The threshold, of all words or of each, as text."""
        value = self.settings.threshold
        if isinstance(value, Mapping):
            return ", ".join(f"{word} {number:.4g}" for word, number in value.items())
        return f"{value:.4g}"


def at_rate(per_hour: float) -> str:
    """1 false accept an hour"""
    return f"{per_hour:g} false accept{'s' * (per_hour != 1)} an hour"


def detection(run: Path, options: DetectionOptions, network: Mapping[str, Any], words: Sequence[str]) -> Detection:
    """The detection that the options mean for this run's network (Spotter.network) and words.

    Raises UsageError for an unknown preset or word, a number out of range, and for --at without a threshold that was
    stored for this network and these settings.
    """
    found = without_stored(options, words)
    if options.threshold:
        return found
    path = run / thresholds.FILE
    stored = thresholds.load(path) if path.is_file() else None
    advice = f"kws spot {run} VALID_AUDIO --truth LABELS --at {options.per_hour or 1:g} chooses one"
    if stored is None:
        return _no_stored(options, found, f"no threshold is stored for {run}", advice)
    differences = _differences(stored, network, found.settings)
    if differences:
        return _no_stored(options, found, f"the thresholds in {path} are for {differences}", advice)
    per_hour = stored.per_hour if options.per_hour is None else options.per_hour
    source = f"chosen on {thresholds.names_text(stored.recordings)} with at most {at_rate(per_hour)}"
    return dataclasses.replace(found.with_threshold(stored.threshold(per_hour), source), stored=stored)


def without_stored(options: DetectionOptions, words: Sequence[str]) -> Detection:
    """As `detection`, with the preset's threshold where none is given."""
    name = options.preset or DEFAULT_PRESET
    if name not in PRESETS:
        raise UsageError(f"--preset {name}: no such preset; wanted {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    given: dict[str, Any] = {"smooth_ms": options.smooth_ms, "refractory_ms": options.refractory_ms}
    if options.threshold:
        given["threshold"] = _parse_threshold(options.threshold)
    settings = dataclasses.replace(PRESETS[name], **{key: value for key, value in given.items() if value is not None})
    settings.thresholds(words)  # refuses words that the network lacks
    source = "--threshold" if options.threshold else f"that of the preset {name}" if options.preset else "the default"
    return Detection(preset=name, settings=settings, rules=RULES[name], source=source)


def _no_stored(options: DetectionOptions, found: Detection, why: str, advice: str) -> Detection:
    if options.per_hour is not None:
        raise UsageError(f"--at {options.per_hour:g}: {why}; {advice}")
    return dataclasses.replace(found, source=f"{found.source}; {why}; {advice}")


def _differences(stored: ThresholdFile, network: Mapping[str, Any], settings: DetectorSettings) -> str:
    """What the stored thresholds were chosen for and is different now, as text; "" for nothing."""
    now = {**network, **{key: getattr(settings, key) for key in stored.settings}}
    then = {**stored.network, **stored.settings}
    return ", ".join(f"{key} {value} and not {now.get(key)}" for key, value in then.items() if value != now.get(key))


def _parse_threshold(text: str) -> float | dict[str, float]:
    """0.8 -> 0.8; yes=0.8,no=0.7 -> {"yes": 0.8, "no": 0.7}."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.partition("=") for part in text.split(",")]
        return {word.strip(): float(value) for word, _, value in pairs}
    except ValueError:
        raise UsageError(f"--threshold {text}: wanted a number from 0 to 1, or WORD=NUMBER,... for each word") from None
