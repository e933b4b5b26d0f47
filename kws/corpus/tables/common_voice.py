"""Common Voice's tables: validated.tsv, train.tsv, dev.tsv and test.tsv beside a folder clips/.

    client_id, path, sentence, ... -> speaker, audio, word; `Yes.` is the word yes

The file's quotes mean nothing there, as sentences contain them. Old releases leave out `.mp3` at the end of paths.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Set
from typing import ClassVar

from kws.corpus.recording import parse_word
from kws.corpus.tables.csv_table import ReleasedTable

UNUSED = frozenset({"invalidated.tsv", "other.tsv", "reported.tsv", "clip_durations.tsv", "times.txt"})
"""Tables of a release that list no usable recordings: rejected, not yet validated, or no recordings at all."""
_KEYS = frozenset({"client_id", "path", "sentence"})
_PUNCTUATION = " .,;:!?…\"'“”„«»‹›‘’¿¡。！？،؟।"


def is_common_voice(names: Set[str]) -> bool:
    """Whether a TSV with these columns (lower case) is one of Common Voice's."""
    return names >= _KEYS


@dataclasses.dataclass
class CommonVoice(ReleasedTable):
    """One of Common Voice's TSV files."""

    kind: ClassVar[str] = "Common Voice"
    quoting: ClassVar[int] = csv.QUOTE_NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.notes[:] = [
            f"{self.name}: a table of Common Voice: sentences are words in lower case, without punctuation at their "
            "ends; client_id is the speaker"
        ]

    def parse_word(self, text: str) -> str:
        """The sentence in lower case, without punctuation at its ends."""
        return _parse_sentence(text)


@functools.lru_cache(maxsize=1 << 16)
def _parse_sentence(text: str) -> str:
    return parse_word(text.strip(_PUNCTUATION).lower())
