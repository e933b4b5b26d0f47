"""What the names of folders look like: words, speakers, sessions, or mere containers."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection

_CONTAINERS = frozenset({
    "audio", "audios", "audio_files", "clip", "clips", "data", "dataset", "files", "recording", "recordings", "sample",
    "samples", "sound", "sounds", "speech", "voice", "wav", "wave", "wavs", "waves", "flac", "mp3", "ogg",
    "train", "training", "valid", "validation", "val", "dev", "test", "testing",
})  # fmt: skip
_COMMON_WORDS = frozenset({
    "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "zero", "one", "two", "three", "four",
    "five", "six", "seven", "eight", "nine", "ten", "bed", "bird", "cat", "dog", "happy", "house", "tree", "wow",
    "sheila", "marvin", "backward", "forward", "follow", "learn", "visual", "unknown", "silence", "noise", "background",
    "other", "others", "negative", "positive", "start", "open", "close", "play", "pause", "next", "previous", "hello",
    "lights", "volume", "louder", "quieter", "wake", "wakeword", "wake_word", "keyword", "not_keyword",
    "non_keyword", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
})  # fmt: skip
"""Words of public keyword corpora. Two of them on a level of folders, and half of it, show that it holds words."""
_GROUP = re.compile(
    r"(batch|session|sess|part|take|set|day|date|device|mic|room|folder|dir|disc|cd|chunk|round|recordings?|"
    r"clean|noisy|quiet|loud|near|far|normal|original|augmented|raw)"
    r"[-_ .]?[\w-]*", re.IGNORECASE
)  # fmt: skip
_LABEL = re.compile(r"(word|class|label|keyword|command|cmd|kw|category)[-_ .]?\d*", re.IGNORECASE)
_SPEAKER = re.compile(
    r"(spk|spkr|speaker|user|person|people|subject|subj|actor|participant|client|talker|voice|anon\w*)[-_ .]?\w*",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"0\d+|\d{3,}|(?=.*\d)[\w.-]*[^\W\d][\w.-]*|[0-9a-f]{8,}", re.IGNORECASE)
"""Numbers with a leading zero or three digits, letters with digits, long hexadecimal numbers."""
_NUMBERED_NO_WORD = re.compile(
    r"(spk|spkr|speaker|user|person|subject|subj|actor|participant|client|talker|fold|batch|session)[-_ .]?\d+",
    re.IGNORECASE,
)
_MOST = 0.8


class Kind(enum.Enum):
    """What a level of folders holds, as far as its names show."""

    WORDS = "words"
    SPEAKERS = "speakers"
    GROUPS = "groups"
    """Sessions, devices, containers: neither words nor speakers."""
    UNKNOWN = "unknown"


def is_container(name: str) -> bool:
    """Whether a folder of that name holds recordings rather than the recordings of a word."""
    return name.lower() in _CONTAINERS


def are_no_words(names: Collection[str]) -> bool:
    """Whether all these names, such as Actor_01 or fold3, are the names of people or of parts of a corpus."""
    return len(names) > 1 and all(map(_NUMBERED_NO_WORD.fullmatch, names))


def kind_of_level(names: Collection[str], speakers_share: float) -> Kind:
    """The kind of a level with these names. `speakers_share`: the share of its folders with the name of the speaker in
    the names of their files."""
    words = sum(name.lower() in _COMMON_WORDS for name in names)
    if speakers_share > 0.9:
        return Kind.SPEAKERS
    if words > 1 and 2 * words >= len(names):
        return Kind.WORDS
    if _share(names, lambda name: bool(_LABEL.fullmatch(name))):
        return Kind.WORDS
    if _share(names, lambda name: is_container(name) or bool(_GROUP.fullmatch(name))):
        return Kind.GROUPS
    if _share(names, lambda name: bool(_SPEAKER.fullmatch(name) or _IDENTIFIER.fullmatch(name))):
        return Kind.SPEAKERS
    if len(names) > 1 and all(name.isdecimal() for name in names) and len(set(map(len, names))) == 1:
        return Kind.SPEAKERS  # 01 to 60: of the same width, unlike numbers that are words
    return Kind.UNKNOWN


def _share(names: Collection[str], holds: Callable[[str], bool]) -> bool:
    """Whether it holds for most names."""
    return sum(map(holds, names)) >= _MOST * len(names)
