"""Word, speaker and split from names (`--names`): with `{word}_{speaker}_{}`, 7_jackson_32 is the word 7 by jackson.

A pattern with a / is for the whole path below the source: with `{speaker}/{word}/{}`, anna/yes/1 is yes by anna.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kws.errors import UsageError

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("word", "speaker", "split")
_WANTED = (
    "wanted {word} and perhaps {speaker} and {split}, each once, and {} for anything, such as '{word}_{speaker}_{}' "
    "for file names, or '{speaker}/{word}/{}' for whole paths"
)


class NameFields(NamedTuple):
    """Word, speaker and split of a name; "" for a field that the pattern does not have."""

    word: str
    speaker: str
    split: str = ""


class NamePattern:
    """A pattern for the names of files without extension, or, where it has a /, for their paths below the source. It
    must match the whole; fields are as short as possible and have no /.

    Raises UsageError for an invalid pattern.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        literals, fields = _FIELD.split(text)[::2], _FIELD.findall(text)
        if not set(fields) & {"word", "speaker"} or not set(fields) <= {*_FIELDS, ""} or any(map(_has_brace, literals)):
            raise UsageError(f"--names {text!r}: {_WANTED}")
        if any(fields.count(name) > 1 for name in _FIELDS):
            raise UsageError(f"--names {text!r}: a field appears twice; {_WANTED}")
        self.is_for_paths, self.has_word = "/" in text, "word" in fields
        if self.is_for_paths and not self.has_word:
            raise UsageError(f"--names {text!r}: a pattern for paths without {{word}}; {_WANTED}")
        groups = [f"(?P<{name}>[^/]+?)" if name else "[^/]*?" for name in fields]
        self._regex = re.compile(
            "".join(re.escape(a) + b for a, b in zip(literals, [*groups, ""], strict=True)), re.DOTALL
        )

    def parse(self, stem: str) -> NameFields | None:
        """The fields of a name (for a pattern with / a path) without extension; None where it does not match."""
        match = self._regex.fullmatch(stem)
        if not match:
            return None
        fields = match.groupdict()
        return NameFields(*(fields.get(name, "") for name in _FIELDS))


def _has_brace(text: str) -> bool:
    return "{" in text or "}" in text
