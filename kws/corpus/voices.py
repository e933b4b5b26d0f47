"""Synthetic speakers: different voices of espeak-ng, each assigned to one split.

number of voices, seed -> language or accent x variant (vocal tract) x rate x pitch -> Voice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from kws.corpus import espeak

SPLITS = ("train", "validation", "testing")

# Files of lang/gmw, which are espeak's names; "en" is British. Without New York, which speaks half of the default words
# as "en-US" does.
ACCENTS = ("en", "en-US", "en-029", "en-GB-scotland", "en-GB-x-rp", "en-GB-x-gbclan", "en-GB-x-gbcwmd")
# Files of voices/!v that sound like a person. Without whispers and croaks, robots and echoes, broken rhythm, near
# copies of one in the list, and those (Reed, caleb) whose breath noise is from the C library's unseeded rand().
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Alex", "Andrea", "Annie", "Denis"),
    *("Diogo", "Gene2", "Michael", "Mike", "Nguyen", "adam", "aunty", "belinda", "benjamin", "david", "grandma"),
    *("grandpa", "linda", "max", "michel", "mike2", "paul", "quincy", "robert", "steph", "travis", "victor"),
)
RATES, PITCHES = range(130, 201, 10), range(30, 71, 5)  # words a minute; on espeak's scale of 0 to 99
_VOICES = 0
"""First key of the random generator; kws.corpus.synth uses others."""


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker. rate: words per minute. pitch: 0 to 99, espeak's scale. split: one of SPLITS."""

    speaker: str
    accent: str
    variant: str
    rate: int
    pitch: int
    split: str

    @property
    def name(self) -> str:
        """espeak's name of the voice, LANGUAGE+VARIANT."""
        return f"{self.accent}+{self.variant}"


def plan_voices(num_voices: int, seed: int, languages: Sequence[str] = ACCENTS) -> list[Voice]:
    """Draws `num_voices` different voices and assigns each to a split. The same arguments give the same list.

    Every (language, variant) pair is used once before any is used again. Raises UsageError for languages that espeak
    does not have, and for fewer than 3 voices or more than exist.
    """
    for language in languages:
        espeak.check_language(language)
    variants = [name for name in VARIANTS if espeak.is_variant(name)]
    pairs, prosody = list(product(languages, variants)), list(product(RATES, PITCHES))
    most = len(pairs) * len(prosody)
    if not 3 <= num_voices <= most:
        espeak.refuse("voices", num_voices, f"3 (one for each split) to {most}", "type another number of voices")
    rng = np.random.default_rng([_VOICES, seed])
    pair_order, prosody_order = rng.permutation(len(pairs)), rng.permutation(len(prosody))
    held_out = [*["validation"] * max(1, round(num_voices / 10)), *["testing"] * max(1, round(num_voices / 8))]
    splits = rng.permutation([*held_out, *["train"] * (num_voices - len(held_out))])
    voices = []
    for index, speaker in enumerate(rng.choice(2**32, num_voices, replace=False)):
        reuse, at = divmod(index, len(pairs))
        # A pair that is used again gets another rate and pitch.
        rate, pitch = prosody[int(prosody_order[(reuse + at) % len(prosody_order)])]
        voices.append(Voice(f"{speaker:08x}", *pairs[int(pair_order[at])], rate, pitch, str(splits[index])))
    return voices
