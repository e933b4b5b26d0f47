"""The settings of `kws mix`, and their checks."""

from __future__ import annotations

import dataclasses
import math

from kws.corpus.tasks import SPLITS
from kws.errors import UsageError, did_you_mean

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixSettings:
    """How streams are mixed. Raises UsageError, which names the option, for impossible values."""

    split: str = "test"
    words: tuple[str, ...] = ()
    """The words of the label tracks; (): all words of the corpus."""
    hours: float = 1.0
    words_per_hour: float = 240.0
    distractors_per_hour: float = 0.0
    """Clips of the other words, which are not in the label tracks."""
    gap_s: float = 2.0
    """Shortest time from the end of the speech of one clip to the start of the next, in seconds."""
    snr_db: Range = (5.0, 20.0)
    """Level of a word above the background around it, in dB."""
    background_db: Range = (-50.0, -30.0)
    """Level of the background, in dB of full scale; drawn for each scene of about a minute."""
    background_share: Range = (0.0, 1.0)
    """The part of the time of each background that is used, as fractions. Streams to choose a threshold on should use
    another part than those to report on."""
    rooms: float = 0.5
    """Share of the words with the reverberation of a synthetic room."""
    room_seconds: Range = (0.1, 0.6)
    """Reverberation times of the rooms, in seconds."""
    file_minutes: float = 10.0
    """Longest length of a file, in minutes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(
                f"--split {self.split}: wanted one of {', '.join(SPLITS)}{did_you_mean(self.split, SPLITS)}"
            )
        _require("--hours", self.hours, 0.001 <= self.hours <= 100_000, "0.001 or more")
        _require("--words-per-hour", self.words_per_hour, 0 <= self.words_per_hour < math.inf, "0 or more")
        _require("--distractors", self.distractors_per_hour, 0 <= self.distractors_per_hour < math.inf, "0 or more")
        _require("--gap", self.gap_s, 0 <= self.gap_s < math.inf, "0 seconds or more")
        _require("--rooms", self.rooms, 0 <= self.rooms <= 1, "a share of the words, 0 to 1")
        _require("--minutes", self.file_minutes, 0.1 <= self.file_minutes <= 1440, "0.1 to 1440")
        _require_range("--snr", self.snr_db, -40.0, 100.0)
        _require_range("--level", self.background_db, -90.0, -10.0)
        _require_range("--background-share", self.background_share, 0.0, 1.0)
        _require_range("--reverb", self.room_seconds, 0.01, 10.0)

    @property
    def num_files(self) -> int:
        """Number of files, all of one length."""
        return math.ceil(round(self.hours * 60 / self.file_minutes, 6))


def _require(option: str, value: float, is_right: bool, wanted: str) -> None:
    if not is_right:  # a nan is not right either
        raise UsageError(f"{option} {value:g}: wanted {wanted}")


def _require_range(option: str, found: Range, least: float, most: float) -> None:
    low, high = found
    if not least <= low <= high <= most:
        raise UsageError(f"{option} {low:g}:{high:g}: wanted LOW:HIGH between {least:g} and {most:g}")
