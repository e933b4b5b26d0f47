"""Word and speaker from file names (`--names`): with `{word}_{speaker}_{}`, 7_jackson_32 is the word 7 by jackson."""

from __future__ import annotations

import re
from typing import NamedTuple

from kws.errors import UsageError

_FIELD = re.compile(r"\{([^{}]*)\}")
_WANTED = "wanted {word} and perhaps {speaker}, each once, and {} for anything, such as '{word}_{speaker}_{}'"


class NameFields(NamedTuple):
    """Word and speaker of a file name; "" for a field that the pattern does not have."""

    word: str
    speaker: str


class NamePattern:
    """A pattern for the names of files without extension. It must match the whole name; fields are as short as
    possible.

    Raises UsageError for an invalid pattern.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        literals, fields = _FIELD.split(text)[::2], _FIELD.findall(text)
        known = {"word", "speaker", ""}
        if not set(fields) & {"word", "speaker"} or not set(fields) <= known or any(map(_has_brace, literals)):
            raise UsageError(f"--names {text!r}: {_WANTED}")
        if any(fields.count(name) > 1 for name in ("word", "speaker")):
            raise UsageError(f"--names {text!r}: a field appears twice; {_WANTED}")
        groups = [f"(?P<{name}>.+?)" if name else ".*?" for name in fields]
        self._regex = re.compile("".join(re.escape(a) + b for a, b in zip(literals, [*groups, ""], strict=True)))

    def parse(self, stem: str) -> NameFields | None:
        """The fields of a file name without extension; None where it does not match."""
        match = self._regex.fullmatch(stem)
        if not match:
            return None
        fields = match.groupdict()
        return NameFields(fields.get("word", ""), fields.get("speaker", ""))


def _has_brace(text: str) -> bool:
    return "{" in text or "}" in text
