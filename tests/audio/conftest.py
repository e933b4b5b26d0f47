from __future__ import annotations

import numpy as np
import pytest

from kws.data.reader import Reader, read_noise
from tests.audio.sounds import Sounds, generated


@pytest.fixture(scope="session", params=["generated", pytest.param("real", marks=pytest.mark.slow)])
def sounds(request: pytest.FixtureRequest) -> Sounds:
    """Generated clips; and real ones where the machine has them, one of them cut to 0.3 s, two joined to 1.4 s."""
    if request.param == "generated":
        return generated()
    corpus = request.getfixturevalue("real_mini")
    reader = Reader(corpus, "train")
    ids = np.linspace(0, len(corpus.split("train")) - 1, 38).astype(int)
    clips = [reader.read(int(clip)) for clip in ids]
    return Sounds([*clips, clips[0][4000:8800], np.concatenate(clips[1:3])[:22400]], read_noise(corpus, "train"))
