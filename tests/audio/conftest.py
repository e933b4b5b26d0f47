from __future__ import annotations

import numpy as np
import pytest

from kws.data.reader import Reader, read_noise
from tests.audio.sounds import Sounds, made


@pytest.fixture(scope="session", params=["made", "real"])
def sounds(request: pytest.FixtureRequest) -> Sounds:
    """Made clips; and real ones where they are, among them one cut to 0.3 s and two joined to 1.4 s."""
    if request.param == "made":
        return made()
    corpus = request.getfixturevalue("real_mini")
    reader = Reader(corpus, "train")
    ids = np.linspace(0, len(corpus.split("train")) - 1, 38).astype(int)
    clips = [reader.read(int(clip)) for clip in ids]
    return Sounds([*clips, clips[0][4000:8800], np.concatenate(clips[1:3])[:22400]], read_noise(corpus, "train"))
