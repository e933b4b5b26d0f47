"""File names like those of the two official archives of Speech Commands: true numbers of clips, invented speakers.

    version -> speakers, each in a split by the official hash rule -> WORD/SPEAKER_nohash_N.wav of every split

The splits have the official sizes, both of the ten commands and of all other words. Names only, no audio.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

from kws.corpus.source import split_by_hash

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISES = tuple(
    f"_background_noise_/{name}.wav"
    for name in ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise")
)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Number of clips of each word; of the ten commands and of all other words by split; number of speakers."""

    words: Mapping[str, int]
    commands: Mapping[str, int]
    others: Mapping[str, int]
    speakers: int

    @property
    def clips(self) -> dict[str, int]:
        """Number of clips of each split."""
        return {split: self.commands[split] + self.others[split] for split in self.commands}


_V1 = {
    "bed": 1713, "bird": 1731, "cat": 1733, "dog": 1746, "down": 2359, "eight": 2352, "five": 2357, "four": 2372,
    "go": 2372, "happy": 1742, "house": 1750, "left": 2353, "marvin": 1746, "nine": 2364, "no": 2375, "off": 2357,
    "on": 2367, "one": 2370, "right": 2367, "seven": 2377, "sheila": 1734, "six": 2369, "stop": 2380, "three": 2356,
    "tree": 1733, "two": 2373, "up": 2375, "wow": 1745, "yes": 2377, "zero": 2376,
}  # fmt: skip
_V2 = {
    "backward": 1664, "bed": 2014, "bird": 2064, "cat": 2031, "dog": 2128, "down": 3917, "eight": 3787, "five": 4052,
    "follow": 1579, "forward": 1557, "four": 3728, "go": 3880, "happy": 2054, "house": 2113, "learn": 1575,
    "left": 3801, "marvin": 2100, "nine": 3934, "no": 3941, "off": 3745, "on": 3845, "one": 3890, "right": 3778,
    "seven": 3998, "sheila": 2022, "six": 3860, "stop": 3872, "three": 3727, "tree": 1759, "two": 3880, "up": 3723,
    "visual": 1592, "wow": 2123, "yes": 4044, "zero": 4052,
}  # fmt: skip
CORPORA = {
    "v0.01": Corpus(
        _V1, {"train": 18538, "valid": 2577, "test": 2567}, {"train": 32550, "valid": 4221, "test": 4268}, 1881
    ),
    "v0.02": Corpus(
        _V2, {"train": 30769, "valid": 3703, "test": 4074}, {"train": 54074, "valid": 6278, "test": 6931}, 2618
    ),
}


@functools.cache
def names(version: str) -> dict[str, tuple[str, ...]]:
    """The clips of each split, train, valid and test, in the order of their words."""
    corpus = CORPORA[version]
    pools: dict[str, list[str]] = {split: [] for split in corpus.clips}
    for number in range(corpus.speakers):
        speaker = hashlib.sha256(f"{version} {number}".encode()).hexdigest()[:8]
        pools[split_by_hash(speaker)].append(speaker)
    counts = _counts(corpus)
    found = {split: tuple(_clips(counts[split], pool)) for split, pool in pools.items()}
    assert {split: len(set(clips)) for split, clips in found.items()} == corpus.clips
    return found


def lists(version: str) -> dict[str, str]:
    """The two official lists, by their file names."""
    found = names(version)
    return {
        "validation_list.txt": "".join(f"{name}\n" for name in found["valid"]),
        "testing_list.txt": "".join(f"{name}\n" for name in found["test"]),
    }


def _counts(corpus: Corpus) -> dict[str, dict[str, int]]:
    """Clips of each word by split, in proportion to the word's total, rounded so that all sums are the official
    ones."""
    counts: dict[str, dict[str, int]] = {split: {} for split in corpus.clips}
    left = dict(corpus.words)
    for split in ("valid", "test"):
        for sizes, inside in ((corpus.commands, True), (corpus.others, False)):
            words = {word: total for word, total in corpus.words.items() if (word in COMMANDS) == inside}
            counts[split] |= _apportion(sizes[split], words)
        left = {word: count - counts[split][word] for word, count in left.items()}
    return counts | {"train": left}


def _apportion(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """`total` divided in proportion to the weights; the largest remainders are rounded up."""
    shares = {word: divmod(total * weight, sum(weights.values())) for word, weight in weights.items()}
    rest = total - sum(whole for whole, _ in shares.values())
    lucky = sorted(shares, key=lambda word: -shares[word][1])[:rest]
    return {word: whole + (word in lucky) for word, (whole, _) in shares.items()}


def _clips(counts: Mapping[str, int], speakers: list[str]) -> list[str]:
    """WORD/SPEAKER_nohash_N.wav: each word starts at another speaker and uses the speakers in turn."""
    clips = []
    for place, (word, count) in enumerate(sorted(counts.items())):
        for take in range(count):
            turn, at = divmod(take, len(speakers))
            clips.append(f"{word}/{speakers[(at + 97 * place) % len(speakers)]}_nohash_{turn}.wav")
    return clips
