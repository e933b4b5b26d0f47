"""Word and speaker of a sample in a shard, from the members beside its audio, in any of the usual layouts.

json (word, label, class, ...), else cls, else txt, else the folder in the key  ->  word
json (speaker, ...), else the part of the key before `_nohash_`                 ->  speaker
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kws.corpus.recording import speaker_from_name, to_nfc

WORD_KEYS = ("word", "keyword", "command", "label", "class", "class_name", "category", "text", "transcript")
SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")
"""Keys of the json member; the first that is present counts."""

Members = Mapping[str, bytes]
"""The members of a sample: suffix (what follows the key's dot, in lower case) -> content."""


def word_and_speaker(key: str, members: Members, words: Sequence[str] = ()) -> tuple[str, str]:
    """Word and speaker of one sample; the speaker is "" where it is unknown. `words`: what numeric labels stand for.

    A text takes precedence over a number: `{"label": 3, "text": "left"}` is left. Raises ValueError, saying what was
    found and wanted, where there is no word.
    """
    facts = _json_member(members)
    return to_nfc(_word(key, facts, members, words)), to_nfc(_speaker(key, facts))


def folder_of_label(key: str, members: Members) -> str:
    """The folder in the key, where it names the word; "" where a member does."""
    facts = _json_member(members)
    values = [facts.get(name) for name in WORD_KEYS] + [_cls(members), _text(members, "txt")]
    has_label = any((isinstance(value, str) and value.strip()) or isinstance(value, int) for value in values)
    return "" if has_label else key.rpartition("/")[0].strip("./")


def list_suffixes(suffixes: Iterable[str]) -> str:
    """The first five suffixes, for messages: .wav, .json"""
    return ", ".join(f".{suffix}" for suffix in list(suffixes)[:5])


def _json_member(members: Members) -> Mapping[str, Any]:
    """The json member as a mapping. Where it is a plain value, that is the word."""
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
        f"no label in {list_suffixes(members)}; wanted a json member with the word (as {', '.join(WORD_KEYS[:4])}, "
        "...), a cls or txt member, or the word as a folder in the key"
    )


def _speaker(key: str, facts: Mapping[str, Any]) -> str:
    named = [str(facts[name]) for name in SPEAKER_KEYS if isinstance(facts.get(name), str | int)]
    if named:
        return named[0]
    return speaker_from_name(key)


def _of_kind(members: Members, kind: str) -> bytes | None:
    """The member whose suffix is `kind` or ends in .`kind`; None where there is none."""
    return next((data for suffix, data in members.items() if suffix.rpartition(".")[2] == kind), None)


def _text(members: Members, kind: str) -> str | None:
    data = _of_kind(members, kind)
    return None if data is None else data.decode("utf-8", errors="replace").strip()


def _cls(members: Members) -> str | int | None:
    """The cls member: a number, as WebDataset writes it, or a name, as others do."""
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
