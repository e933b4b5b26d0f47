"""What a sample is called, and who speaks: from the members that stand beside its audio, in whatever layout.

json (word, label, class, ...), else cls, else txt, else the folder in the key  ->  word
json (speaker, ...), else what stands before `_nohash_` in the key              ->  speaker
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kws.corpus.recording import composed, speaker_of

WORD_KEYS = ("word", "keyword", "command", "label", "class", "class_name", "category", "text", "transcript")
SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")
"""Of a json member, the first that is there."""

Members = Mapping[str, bytes]
"""Suffix (what follows the key's dot, in small letters) -> content."""


def word_and_speaker(key: str, members: Members, words: Sequence[str] = ()) -> tuple[str, str]:
    """Of one sample; the speaker is "" where nothing says who it is. `words` are what numbers mean.

    Text goes before numbers, so `{"label": 3, "text": "left"}` is left. Raises ValueError, saying what was found and
    wanted, where there is no word.
    """
    facts = _facts(members)
    return composed(_word(key, facts, members, words)), composed(_speaker(key, facts))


def listed(suffixes: Iterable[str]) -> str:
    """For messages: .wav, .json"""
    return ", ".join(f".{suffix}" for suffix in list(suffixes)[:5])


def _facts(members: Members) -> Mapping[str, Any]:
    """The json member as a mapping; what is none in it counts as the word."""
    data = _of_kind(members, "json")
    try:
        facts = {} if data is None else json.loads(data)
    except ValueError as error:
        raise ValueError("its json is damaged; wanted a json member with the word") from error
    return facts if isinstance(facts, dict) else {"word": facts}


def _word(key: str, facts: Mapping[str, Any], members: Members, words: Sequence[str]) -> str:
    values = [facts.get(name) for name in WORD_KEYS] + [_cls(members), _text(members, "txt")]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    folder = key.rpartition("/")[0].rpartition("/")[2].strip(".")
    if texts:
        return _one_line(texts[0])
    if numbers:
        return _numbered(numbers[0], words)
    if folder:
        return folder
    raise ValueError(
        f"no label in {listed(members)}; wanted a json member with the word (as {', '.join(WORD_KEYS[:4])}, ...), "
        "a cls or txt member, or the word as a folder in the key"
    )


def _speaker(key: str, facts: Mapping[str, Any]) -> str:
    named = [str(facts[name]) for name in SPEAKER_KEYS if isinstance(facts.get(name), str | int)]
    if named:
        return named[0]
    return speaker_of(key)


def _of_kind(members: Members, kind: str) -> bytes | None:
    """The member whose suffix is, or ends in, `kind`."""
    return next((data for suffix, data in members.items() if suffix.rpartition(".")[2] == kind), None)


def _text(members: Members, kind: str) -> str | None:
    data = _of_kind(members, kind)
    return None if data is None else data.decode("utf-8", errors="replace").strip()


def _cls(members: Members) -> str | int | None:
    """WebDataset writes a class's number as text; others write its name."""
    text = _text(members, "cls")
    return int(text) if text and text.isdecimal() else text


def _one_line(text: str) -> str:
    word = text.strip()
    if not word.isprintable():
        raise ValueError(f"the label is {word[:40]!r}, wanted one line of text")
    return word


def _numbered(number: int, words: Sequence[str]) -> str:
    if not words:
        raise ValueError(f"the label is the number {number}; give the words that numbers mean: --words FILE or a,b,c")
    if not 0 <= number < len(words):
        raise ValueError(f"the label is the number {number}, wanted 0 to {len(words) - 1} for the {len(words)} words")
    return words[number]
