"""Thresholds chosen on one set of recordings, for use on others: RUN/spot/thresholds.json.

    Curve of the valid recordings -> choose -> file -> threshold(false accepts an hour) -> other recordings

Figures for the recordings on which the threshold was chosen are too optimistic. So the file contains a hash
of the samples of each of its recordings, and `refuse_same_audio` refuses them, also under another name or in another
lossless format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws import files
from kws.errors import UsageError, unreadable
from kws.streaming.counting import CountingRules
from kws.streaming.curves import Curve
from kws.streaming.events import DetectorSettings

FILE = "spot/thresholds.json"
"""In a run folder."""
_FORMAT = 1
_MOST_STEPS = 1000


class AudioDigest:
    """A sha256 of a recording's samples, which come in chunks of any size."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, pcm: npt.NDArray[np.int16]) -> None:
        """Adds the next samples."""
        self._hash.update(np.ascontiguousarray(pcm, "<i2").tobytes())

    def hexdigest(self) -> str:
        """The hash of all samples so far."""
        return self._hash.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdFile:
    """The DET curve of the recordings on which thresholds are chosen.

    network: what the scores depend on, such as the checkpoint and the form (window or stream); a reader compares it.
    recordings: name and sha256 of the samples of each. staircase: that of the Curve.
    per_hour: the false accepts an hour whose threshold is the default.
    """

    network: Mapping[str, Any]
    settings: Mapping[str, Any]
    rules: CountingRules
    words: tuple[str, ...]
    recordings: Mapping[str, str]
    hours: float
    spoken: int
    staircase: tuple[tuple[int, float, int], ...]
    per_hour: float = 1.0

    def threshold(self, per_hour: float) -> float:
        """The threshold with the fewest misses of those with at most `per_hour` false accepts an hour.

        Raises UsageError where there is none.
        """
        fits = [step for step in self.staircase if step[0] <= per_hour * self.hours + 1e-9]
        if not fits:
            least = f"{self.staircase[0][0] / self.hours:.3g} an hour" if self.staircase else "no event at all"
            raise UsageError(
                f"no threshold gave at most {per_hour:g} false accepts an hour on the {self.hours:.3g} hours of "
                f"{names_text(self.recordings)}; the fewest are {least}; allow more, or choose on other recordings"
            )
        return fits[-1][1]


def choose(
    curve: Curve,
    settings: DetectorSettings,
    rules: CountingRules,
    network: Mapping[str, Any],
    recordings: Mapping[str, str],
) -> ThresholdFile:
    """The thresholds of a curve over these recordings. `settings` and `rules` are those of its sweep.

    Raises UsageError where no word is spoken in the recordings.
    """
    if not curve.spoken.sum():
        raise UsageError(
            f"{names_text(recordings)}: no word of the network is spoken there; wanted labels with its words"
        )
    kept = {field: value for field, value in dataclasses.asdict(settings).items() if field != "threshold"}
    return ThresholdFile(
        network=dict(network),
        settings=kept,
        rules=rules,
        words=curve.words,
        recordings=dict(recordings),
        hours=curve.hours,
        spoken=int(curve.spoken.sum()),
        staircase=tuple(thinned(curve.staircase())),
    )


def thinned(steps: Sequence[tuple[int, float, int]]) -> list[tuple[int, float, int]]:
    """At most 1,000 steps of `Curve.staircase`, the first and the last among them: many hours of audio have more."""
    if len(steps) <= _MOST_STEPS:
        return list(steps)
    return [steps[place] for place in np.linspace(0, len(steps) - 1, _MOST_STEPS).round().astype(int).tolist()]


def save(path: Path, chosen: ThresholdFile) -> None:
    """Writes the file, and makes its folder. Raises OSError where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"format": _FORMAT, **dataclasses.asdict(chosen)})


def load(path: Path) -> ThresholdFile:
    """Reads a file that `save` wrote. Raises UsageError where there is none, or it is damaged."""
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(error, path, "choose thresholds first, on recordings with labels") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); choose the thresholds again") from error
    try:
        if tree.pop("format") != _FORMAT:
            raise UsageError(f"{path}: written by a newer kws; choose the thresholds again with this version")
        rules, words = CountingRules(**tree.pop("rules")), tuple(tree.pop("words"))
        steps = tuple((int(count), float(threshold), int(missed)) for count, threshold, missed in tree.pop("staircase"))
        loaded = ThresholdFile(rules=rules, words=words, staircase=steps, **tree)
        DetectorSettings(0.5, **loaded.settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not a file of thresholds ({error!r}); choose the thresholds again") from error
    return loaded


def refuse_same_audio(path: Path, chosen: ThresholdFile, recordings: Mapping[str, str]) -> None:
    """Raises UsageError where one of the recordings (names and sha256) is one on which thresholds were chosen."""
    known = {digest: name for name, digest in chosen.recordings.items()}
    for name, digest in recordings.items():
        if digest in known:
            raise UsageError(
                f"{name}: the same audio as {known[digest]}, on which the thresholds in {path} were chosen; wanted "
                "other recordings, or a threshold of your own with --threshold"
            )


def names_text(recordings: Mapping[str, str] | Sequence[str]) -> str:
    """The first names, and how many more there are."""
    names = list(recordings)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
