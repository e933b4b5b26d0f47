"""What `--names` says of file names: `{word}_{speaker}_{}` makes of 7_jackson_32 the word 7 by jackson."""

from __future__ import annotations

import re
from typing import NamedTuple

from kws.errors import UsageError

_FIELD = re.compile(r"\{([^{}]*)\}")
_WANTED = "wanted {word} and perhaps {speaker}, each once, and {} for anything, such as '{word}_{speaker}_{}'"


class Named(NamedTuple):
    """What a name says; "" where the pattern does not have it."""

    word: str
    speaker: str


class NamePattern:
    """A pattern that the stems of file names match from end to end, every field as short as it can be.

    Raises UsageError for one that is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        literals, fields = _FIELD.split(text)[::2], _FIELD.findall(text)
        known = {"word", "speaker", ""}
        if not set(fields) & {"word", "speaker"} or not set(fields) <= known or any(map(_has_brace, literals)):
            raise UsageError(f"--names {text!r}: {_WANTED}")
        if any(fields.count(name) > 1 for name in ("word", "speaker")):
            raise UsageError(f"--names {text!r}: a field twice; {_WANTED}")
        groups = [f"(?P<{name}>.+?)" if name else ".*?" for name in fields]
        self._regex = re.compile("".join(re.escape(a) + b for a, b in zip(literals, [*groups, ""], strict=True)))

    def read(self, stem: str) -> Named | None:
        """What the name says; None where it is another kind of name."""
        found = self._regex.fullmatch(stem)
        said = found.groupdict() if found else {}
        return Named(said.get("word", ""), said.get("speaker", "")) if found else None


def _has_brace(text: str) -> bool:
    return "{" in text or "}" in text
