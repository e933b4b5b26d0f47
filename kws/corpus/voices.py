"""Made speakers: a number and a seed to as many different voices of espeak-ng, each in one split.

seed -> language or accent x variant (vocal tract) x rate x pitch -> Voice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from kws.corpus import espeak

SPLITS = ("train", "validation", "testing")

# Files of lang/gmw, also espeak's names; "en" is British. Not New York: half of the default words come out as in
# "en-US".
ACCENTS = ("en", "en-US", "en-029", "en-GB-scotland", "en-GB-x-rp", "en-GB-x-gbclan", "en-GB-x-gbcwmd")
# Files of voices/!v that sound like a person. Left out: whispers and croaks, robots and echoes, broken rhythm, near
# copies of one that is here, and those (Reed, caleb) whose breath comes from the C library's rand(), unseeded.
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Alex", "Andrea", "Annie", "Denis"),
    *("Diogo", "Gene2", "Michael", "Mike", "Nguyen", "adam", "aunty", "belinda", "benjamin", "david", "grandma"),
    *("grandpa", "linda", "max", "michel", "mike2", "paul", "quincy", "robert", "steph", "travis", "victor"),
)
RATES, PITCHES = range(130, 201, 10), range(30, 71, 5)  # words a minute; on espeak's scale of 0 to 99
_VOICES = 0
"""First key of this generator, apart from those of kws.corpus.synth."""


@dataclass(frozen=True)
class Voice:
    """One made speaker: `rate` in words a minute, `pitch` on espeak's 0 to 99 scale, `split` one of SPLITS."""

    speaker: str
    accent: str
    variant: str
    rate: int
    pitch: int
    split: str

    @property
    def name(self) -> str:
        """As espeak has it."""
        return f"{self.accent}+{self.variant}"


def plan_voices(num_voices: int, seed: int, languages: Sequence[str] = ACCENTS) -> list[Voice]:
    """Draw `num_voices` different voices and give each one split; the same arguments give the same list.

    No (language, variant) pair comes twice before all came once. Raises UsageError for languages that espeak does not
    have, and for fewer than 3 voices or more than can be made.
    """
    for language in languages:
        espeak.check_language(language)
    variants = [name for name in VARIANTS if espeak.is_variant(name)]
    pairs, prosody = list(product(languages, variants)), list(product(RATES, PITCHES))
    most = len(pairs) * len(prosody)
    if not 3 <= num_voices <= most:
        espeak.refuse("voices", num_voices, f"3 (one for each split) to {most}", "type another number of voices")
    rng = np.random.default_rng([_VOICES, seed])
    order, turn = rng.permutation(len(pairs)), rng.permutation(len(prosody))
    held = [*["validation"] * max(1, round(num_voices / 10)), *["testing"] * max(1, round(num_voices / 8))]
    splits = rng.permutation([*held, *["train"] * (num_voices - len(held))])
    voices = []
    for index, speaker in enumerate(rng.choice(2**32, num_voices, replace=False)):
        again, at = divmod(index, len(pairs))
        rate, pitch = prosody[int(turn[(again + at) % len(turn)])]  # another one each time that a pair comes again
        voices.append(Voice(f"{speaker:08x}", *pairs[int(order[at])], rate, pitch, str(splits[index])))
    return voices
